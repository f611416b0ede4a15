"""Lines at a pseudo-terminal, with readline and without it."""

import pytest

from tests.cli.pseudo_terminal import PASTE_BEGIN, PASTE_END, at_terminal

READER = """
import sys
if "bare" in sys.argv:
    sys.modules["readline"] = None
from pathlib import Path
from xplm.cli.history import History
from xplm.cli.messages import read_entry
from xplm.cli.terminal import Terminal
terminal = Terminal(History(Path(sys.argv[1])))
while True:
    try:
        entry = read_entry(terminal.read)
        terminal.remember(entry.source)
        print(f"<{entry.text!r} {entry.kind.value}>")
    except KeyboardInterrupt:
        print("<interrupt>")
    except EOFError:
        print("<end>")
        break
"""

UP = "\x1b[A"


@pytest.fixture
def history(tmp_path):
    return str(tmp_path / "state" / "history.jsonl")


@pytest.fixture
def reader(history):
    """Start the reader, with or without readline."""

    def start(*mode, term="xterm"):
        return at_terminal(["-c", READER, history, *mode], {"TERM": term})

    return start


def has_gnu_readline():
    readline = pytest.importorskip("readline", reason="this Python has no readline")
    if "GNU" not in (readline.__doc__ or ""):
        pytest.skip("this Python's readline is libedit")


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_a_marked_paste_is_one_message(reader, term):
    has_gnu_readline()
    with reader(term=term) as terminal:
        terminal.wait_for("> ")
        terminal.send(f"{PASTE_BEGIN}first\r  second\rthird{PASTE_END}\r")
        assert terminal.wait_for(" pasted>").endswith("<'first\\n  second\\nthird'")
        terminal.wait_for("> ")
        terminal.send("alone\rtyped ahead\r")
        terminal.wait_for("<'alone' typed>")
        terminal.wait_for("<'typed ahead' typed>")


def test_lines_that_come_at_once_are_one_message_where_pastes_are_not_marked(reader):
    with reader("bare") as terminal:
        terminal.wait_for("> ")
        terminal.send("first\n  second\nthird")
        terminal.wait_for("third")
        terminal.send("\n")
        terminal.wait_for("<'first\\n  second\\nthird' pasted>")
        terminal.wait_for("> ")
        terminal.send("alone\n")
        terminal.wait_for("<'alone' typed>")
        terminal.wait_for("> ")
        terminal.send(f"{PASTE_BEGIN}one\n")
        terminal.send(f"two{PASTE_END}\n")
        terminal.wait_for("<'one\\ntwo' pasted>")
        terminal.wait_for("> ")
        terminal.send("\x04")
        terminal.wait_for("<end>")


@pytest.mark.parametrize("mode", [(), ("bare",)], ids=["readline", "bare"])
def test_blocks_continued_lines_and_interrupts(reader, mode):
    with reader(*mode) as terminal:
        for keys, prompt in (('"""', "... "), ("one", "... "), ('two"""', None)):
            terminal.send(f"{keys}\r")
            if prompt:
                terminal.wait_for(prompt)
        terminal.wait_for("<'one\\ntwo' block>")
        terminal.wait_for("> ")
        terminal.send("a\\\r")
        terminal.wait_for("... ")
        terminal.interrupt_until("<interrupt>")
        terminal.wait_for("> ")
        terminal.send("b\r")
        terminal.wait_for("<'b' typed>")
        terminal.wait_for("> ")
        terminal.send("\x04")
        terminal.wait_for("<end>")


def test_the_arrow_keys_bring_back_earlier_runs(reader):
    has_gnu_readline()
    with reader() as terminal:
        terminal.wait_for("> ")
        terminal.send(f"{PASTE_BEGIN}a\rb{PASTE_END}\r")
        terminal.wait_for("<'a\\nb' pasted>")
        terminal.send('"""/help"""\r')
        terminal.wait_for("<'/help' block>")
    with reader() as terminal:
        terminal.wait_for("> ")
        terminal.send(f"{UP}\r")
        terminal.wait_for("<'/help' block>")
        terminal.wait_for("> ")
        terminal.send(f"{UP}{UP}\r")
        terminal.wait_for("<'a\\nb' pasted>")
