"""What `--json` prints is JSON, which has no NaN and no infinity; and what is said while a user waits."""

import json

import pytest
from rich.console import Console

from xplm.backend import PROGRESS
from xplm.cli.output import Output, OutputFlags, error_line
from xplm.generate.result import Timings


def refuse(name):
    raise AssertionError(name)


def test_numbers_that_are_not_finite_are_null(capsys):
    nan, inf = float("nan"), float("inf")
    values = {"a": nan, "b": [1.0, inf, {"c": -inf}], "d": (nan, "x", None, 3, True)}
    Output(OutputFlags(as_json=True)).result(values)
    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert found == {"a": None, "b": [1.0, None, {"c": None}], "d": [None, "x", None, 3, True]}


@pytest.mark.parametrize("is_quiet", [False, True])
@pytest.mark.parametrize("is_terminal", [False, True])
def test_what_a_backend_makes_users_wait_for_is_said_once_where_somebody_watches(
    capsys, is_quiet, is_terminal
):
    Output(OutputFlags())  # of an earlier command in the same process
    out = Output(OutputFlags(quiet=is_quiet, as_json=True))
    out.stderr = Console(stderr=True, force_terminal=is_terminal, color_system=None)
    PROGRESS.info("compiling")
    stdout, stderr = capsys.readouterr()
    is_said = is_terminal and not is_quiet
    assert (stdout, stderr) == ("", "compiling\n" if is_said else "")


@pytest.mark.parametrize(("compilations", "end"), [(0, "\n"), (3, "; compiling included\n")])
def test_timings_say_what_was_compiled_meanwhile(capsys, compilations, end):
    Output(OutputFlags()).timings(Timings(5, 9.0, 4, 2.0, compilations))
    assert capsys.readouterr().err == f"2.0 tokens/s; prompt: 5 tokens in 9.00 s{end}"


HOSTILE = "a\x1b[2J\x9b31m\u202eb\u2066c\u200f\u061c\ud800é\U0001f600"


def test_json_spells_out_what_could_move_a_cursor_or_turn_text_around(capsys):
    Output(OutputFlags(as_json=True)).result({"text": HOSTILE, HOSTILE: [HOSTILE]})
    out = capsys.readouterr().out
    assert out.rstrip("\n").isprintable()
    assert "é\U0001f600" in out
    assert json.loads(out) == {"text": HOSTILE, HOSTILE: [HOSTILE]}


def test_a_terminal_gets_neither_controls_nor_bidirectional_characters(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    out = Output(OutputFlags())
    out.line(HOSTILE.replace("\ud800", ""))
    out.note(HOSTILE)
    stdout, stderr = capsys.readouterr()
    assert stdout == "a[2J31mbcé\U0001f600\n"
    assert "\\x1b[2J\\x9b31m\\u202eb\\u2066c\\u200f" in stderr


def test_an_error_is_one_printable_line_of_bounded_length():
    line = error_line("must hold\n" + HOSTILE * 10_000 + "; do this")
    assert line.isprintable()
    assert len(line) < 1100
    assert line.endswith("; do this")
