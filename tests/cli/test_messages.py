"""Messages out of lines: blocks, continued lines and pastes."""

import io
import sys

import pytest

from xplm.cli import messages
from xplm.cli.messages import Entry, Kind, read_entry, read_pipe
from xplm.errors import RequestError

TYPED, PASTED, BLOCK = Kind.TYPED, Kind.PASTED, Kind.BLOCK


def entries(*chunks):
    """All entries of these lines and pastes."""
    left, found = iter(chunks), []

    def read(prompt):
        try:
            return next(left)
        except StopIteration:
            raise EOFError from None

    while True:
        try:
            found.append(read_entry(read))
        except EOFError:
            return found


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ((" one ", "two"), [("one", TYPED), ("two", TYPED)]),
        (("a\\", "b\\", "c", "d"), [("a\nb\nc", TYPED), ("d", TYPED)]),
        (("C:\\\\", "d"), [("C:\\\\", TYPED), ("d", TYPED)]),
        (("/system a\\", "b"), [("/system a\nb", TYPED)]),
        (('"""', "a", "", "  b\\", "/help", '"""', "c"), [("a\n\n  b\\\n/help", BLOCK), ("c", TYPED)]),
        (('"""a', 'b"""'), [("a\nb", BLOCK)]),
        (('  """/one line"""  ',), [("/one line", BLOCK)]),
        (('""""""', '"""', '"""'), [("", BLOCK), ("", BLOCK)]),
        (("a\n  b\n", "c"), [("a\n  b", PASTED), ("c", TYPED)]),
        (("one\n",), [("one", TYPED)]),
        (("a\\\nb\\", "c"), [("a\\\nb\\", PASTED), ("c", TYPED)]),
        (('"""\na\n"""',), [("a", BLOCK)]),
        (('"""Doc."""\nx = """y"""',), [('"""Doc."""\nx = """y"""', PASTED)]),
        (('"""', 'a\n"""b"""\nc', '"""'), [('a\n"""b"""\nc', BLOCK)]),
    ],
)  # fmt: skip
def test_lines_become_messages(chunks, expected):
    assert entries(*chunks) == [Entry(*entry) for entry in expected]


@pytest.mark.parametrize(
    "entry",
    [Entry("/a", BLOCK), Entry("a\n/b", BLOCK), Entry("a\nb", PASTED), Entry("/help", TYPED)],
)
def test_what_the_history_brings_back_is_the_same_entry(entry):
    assert entries(entry.source) == [entry]


@pytest.mark.parametrize(
    ("chunks", "fragment"),
    [
        (('"""', "a"), 'a block that """ opens must be closed with """; got the end of the input'),
        (("a\\",), "a line that ends with a backslash must go on; got the end of the input"),
    ],
)
def test_an_input_that_ends_inside_a_message_is_refused(chunks, fragment):
    with pytest.raises(RequestError, match=fragment):
        entries(*chunks)


def test_a_message_without_an_end_is_refused(monkeypatch):
    monkeypatch.setattr(messages, "MAX_MESSAGE_LINES", 3)
    monkeypatch.setattr(messages, "MAX_MESSAGE_CHARS", 3)
    with pytest.raises(RequestError, match="at most 3 lines"):
        entries('"""', "a", "b", "c", "d", '"""')
    monkeypatch.setattr(sys, "stdin", io.StringIO("abcd\n"))
    with pytest.raises(RequestError, match="at most 3 characters"):
        read_pipe("")


def test_a_line_of_a_pipe_ends_where_windows_ends_it_too(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("a\\\r\nb\r\nc", newline="\n"))
    assert read_entry(read_pipe).text == "a\nb"
    assert read_entry(read_pipe).text == "c"
    with pytest.raises(EOFError):
        read_entry(read_pipe)
