"""Where the command begins: what ends it before there is a command line to answer."""

import gc

import pytest

from xplm.cli import entry


@pytest.mark.parametrize(
    ("error", "code", "stderr"),
    [(MemoryError, 2, f"{entry.OUT_OF_MEMORY}\n"), (KeyboardInterrupt, 130, "")],
)
def test_what_ends_it_early_has_an_exit_code(monkeypatch, capsys, error, code, stderr):
    def fails(arguments):
        raise error

    monkeypatch.setattr("xplm.cli.threads.set_threads", fails)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(gc, "set_threshold", lambda threshold: None)
    monkeypatch.setattr(gc, "freeze", lambda: None)
    with pytest.raises(SystemExit) as ended:
        entry.run()
    assert ended.value.code == code
    assert capsys.readouterr().err == stderr
