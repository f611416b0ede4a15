r'''What a conversation reads: messages and commands, out of lines.

    """        opens a block, and at the end of a line closes it; the block is one message, whatever it holds
    a \        at the end of a line, and the line goes on in the next
    a paste    a text of many lines that came at once is one message

A source of lines is a function of a prompt that returns a line without its end, or a paste with line ends inside. At
the end of input it raises EOFError.
'''

import sys
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from xplm.errors import RequestError

Read = Callable[[str], str]

PROMPT, MORE = "> ", "... "
BLOCK = '"""'

MAX_MESSAGE_CHARS = 2**26
"""Of a line: ten million tokens or so, more than any context."""

MAX_MESSAGE_LINES = 2**20


class Kind(Enum):
    """How a message was entered, which decides what a slash at its start means."""

    TYPED = "typed"
    PASTED = "pasted"
    BLOCK = "block"


class Entry(NamedTuple):
    """A message or a command."""

    text: str
    kind: Kind

    @property
    def source(self) -> str:
        """A text that, pasted as one, gives the same entry."""
        if self.kind is not Kind.BLOCK:
            return self.text
        around = "\n" if "\n" in self.text else ""
        return f"{BLOCK}{around}{self.text}{around}{BLOCK}"


def read_entry(read: Read) -> Entry:
    """The next message or command.

    Raises:
        EOFError: there is none.
        RequestError: the input ends inside of one, or it is too long.
    """
    text = read(PROMPT)
    if "\n" in text:
        return _pasted(text)
    if text.lstrip().startswith(BLOCK):
        return Entry(_read_block(text, read), Kind.BLOCK)
    lines = [text]
    while _goes_on(lines[-1]):
        lines[-1] = lines[-1][:-1]
        lines.append(_next(read, lines, "a line that ends with a backslash must go on"))
    return Entry("\n".join(lines).strip(), Kind.TYPED)


def read_pipe(_prompt: str) -> str:
    """The next line of a pipe, which may hold one without an end."""
    line = sys.stdin.readline(MAX_MESSAGE_CHARS + 1)
    if not line:
        raise EOFError
    _require_short(line)
    return line.removesuffix("\n").removesuffix("\r")


def _pasted(text: str) -> Entry:
    """A paste: a block where it is one from its first line to its last, or else a message as it stands."""
    text = text.strip("\n")
    lines = text.split("\n")
    if len(lines) == 1:
        return Entry(text.strip(), Kind.TYPED)
    if text.startswith(BLOCK):
        lines[0] = lines[0].removeprefix(BLOCK)
        if next((i for i, line in enumerate(lines) if _closes(line)), None) == len(lines) - 1:
            return Entry(_block_text("\n".join(lines)), Kind.BLOCK)
    return Entry(text, Kind.PASTED)


def _read_block(text: str, read: Read) -> str:
    lines = [text.lstrip().removeprefix(BLOCK)]
    while not _closes(lines[-1]):
        lines.append(_next(read, lines, f"a block that {BLOCK} opens must be closed with {BLOCK}"))
    return _block_text("\n".join(lines))


def _block_text(text: str) -> str:
    """What stands between the quotes, without the line ends next to them."""
    return text.rstrip().removesuffix(BLOCK).removeprefix("\n").removesuffix("\n")


def _closes(text: str) -> bool:
    return text.rstrip().endswith(BLOCK)


def _goes_on(line: str) -> bool:
    """Whether a line ends with a backslash that no other backslash precedes."""
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1


def _next(read: Read, before: list[str], rule: str) -> str:
    """The line after those of a message that are there already."""
    if len(before) > MAX_MESSAGE_LINES:
        raise RequestError(f"a message must have at most {MAX_MESSAGE_LINES:,} lines; shorten it")
    try:
        return read(MORE)
    except EOFError:
        raise RequestError(f"{rule}; got the end of the input; add what is missing") from None


def _require_short(text: str) -> None:
    if len(text) > MAX_MESSAGE_CHARS:
        raise RequestError(
            f"a message must have at most {MAX_MESSAGE_CHARS:,} characters; shorten it"
        )
