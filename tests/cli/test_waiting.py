"""Waiting is visible: a bar that goes away on a terminal, a rare line on a pipe, nothing if quiet."""

import io

import pytest
from rich.console import Console

from xplm.backend import PROGRESS
from xplm.cli import waiting
from xplm.cli.output import Output, OutputFlags
from xplm.progress import COMPILING, LOADING, READING


class Clock:
    """A clock that tests set."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(waiting, "monotonic", clock)
    monkeypatch.setattr(waiting, "RARE_SECONDS", 5.0)
    return clock


def watched(*, is_terminal, quiet=False):
    screen = io.StringIO()
    out = Output(OutputFlags(quiet=quiet))
    out.stderr = Console(file=screen, force_terminal=is_terminal, width=100, color_system=None)
    return out, screen


def test_a_pipe_gets_a_line_every_five_seconds_and_none_for_what_is_over_sooner(clock):
    out, screen = watched(is_terminal=False)
    for second in range(12):
        clock.now = second + 1.0
        out.waiting.report(READING, 512 * second, 8192)
    out.waiting.report(READING, 8192, 8192)
    assert screen.getvalue().splitlines() == [
        "reading the prompt: 2,560 of 8,192 tokens, about 11 s left",
        "reading the prompt: 5,120 of 8,192 tokens, about 6 s left",
    ]
    clock.now += 100.0
    out.waiting.report(LOADING, 0, 10)
    clock.now += 4.0
    out.waiting.report(LOADING, 5, 10)
    assert len(screen.getvalue().splitlines()) == 2


@pytest.mark.parametrize("is_terminal", [False, True])
def test_quiet_is_quiet(clock, is_terminal):
    out, screen = watched(is_terminal=is_terminal, quiet=True)
    for second in (0.0, 10.0, 20.0):
        clock.now = second
        out.waiting.report(LOADING, 2**20, 2**30)
    assert screen.getvalue() == ""


def test_a_terminal_gets_a_bar_that_is_gone_before_the_text(clock, capsys):
    out, screen = watched(is_terminal=True)
    out.waiting.report(LOADING, 0, 2**30)
    assert screen.getvalue() == ""  # what is over at once would flash
    clock.now = 1.0
    out.waiting.report(LOADING, 2**20, 2**30)
    out.line("text")
    assert "loading the parameters" in screen.getvalue()
    assert "1.0 MiB of 1.0 GiB" in screen.getvalue()
    before = screen.getvalue()
    out.line("more")
    assert screen.getvalue() == before
    assert capsys.readouterr().out == "text\nmore\n"


def test_kernels_that_are_compiled_are_counted_as_one_wait(clock):
    for is_terminal in (True, False):
        out, screen = watched(is_terminal=is_terminal)
        for second in range(7):
            clock.now += 1.0
            PROGRESS.debug("compiling", extra={"progress": (COMPILING, second + 1, None)})
            PROGRESS.debug("done", extra={"progress": (COMPILING, second + 1, second + 1)})
        assert "compiling kernels for this machine, once" in screen.getvalue()
        assert "6 so far, 5 s" in screen.getvalue()
        assert is_terminal or len(screen.getvalue().splitlines()) == 1
        assert not out.waiting.is_shown
