"""scripts/parity_trials.py: how it ends."""

import runpy
import sys

import pytest

from tests.paths import ROOT


@pytest.fixture
def script(monkeypatch, capsys):
    """Runs a script here; its exit code, and what it wrote."""

    def run(name, *arguments):
        path = str(ROOT / "scripts" / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [path, *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(path, run_name="__main__")
        return end.value.code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(("alarms", "code"), [([], 0), (["linear y: is off"], 1)])
def test_an_alarm_is_exit_code_1(script, monkeypatch, alarms, code):
    monkeypatch.setattr("xplm.numerics.parity.trials.clean_run", lambda *_: alarms)
    found, out, _ = script("parity_trials", "--runs", 2, "--policy", "bf16")
    assert found == code
    assert f"numpy: {2 * code} of 2 runs raised an alarm" in out
    assert out.count("numpy:bf16, seed") == 2 * code


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("parity_trials", ("--runs", 0), "--runs must be at least 1; got 0"),
        ("parity_trials", ("--backend", "nonesuch"), 'no backend named "nonesuch"'),
    ],
)
def test_bad_input_is_one_line(script, name, flags, message):
    code, out, err = script(name, *flags)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert message in line
