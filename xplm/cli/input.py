"""What a command reads: prompts and texts, in UTF-8."""

import sys
from collections.abc import Sequence
from pathlib import Path

from xplm.errors import RequestError

STDIN = "-"


def read_prompts(given: Sequence[str]) -> list[str]:
    """Prompts from the command line; "-", or none at all where stdin is a pipe, stands for what stdin holds.

    Raises:
        RequestError: there is none, or one is not UTF-8.
    """
    if not given and sys.stdin.isatty():
        raise RequestError('a prompt is needed; got none; write, for example, xplm generate "Hi"')
    return [_read_stdin() if text == STDIN else text for text in given or [STDIN]]


def read_text(path: str) -> str:
    """A whole text file, or stdin for "-".

    Raises:
        RequestError: it cannot be read, or is not UTF-8.
    """
    if path == STDIN:
        return _decode(sys.stdin.buffer.read(), "stdin")
    try:
        return _decode(Path(path).read_bytes(), path)
    except OSError as error:
        raise RequestError(f'a text must be readable; got "{path}": {error.strerror}') from error


def _read_stdin() -> str:
    """Stdin, without the line end that `echo` adds."""
    return _decode(sys.stdin.buffer.read(), "stdin").removesuffix("\n")


def _decode(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"a text must be UTF-8; {name} has byte {content[error.start]:#04x} at {error.start}; "
            "convert it first"
        ) from error
