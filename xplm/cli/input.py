"""What a command reads: prompts and texts, in UTF-8, no larger than memory allows."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from xplm.errors import RequestError
from xplm.host_memory import host_memory
from xplm.out_of_memory import format_bytes

STDIN = "-"

MAX_PROMPT_BYTES = 2**28
"""Of stdin, for a prompt: 50 million tokens or so, more than any context."""

BYTES_PER_BYTE = 8
"""Of memory, for a byte of a text: its bytes, its characters, and its token ids."""

BLOCK_BYTES = 2**20


def read_prompts(given: Sequence[str]) -> list[str]:
    """Prompts from the command line; "-", or none at all where stdin is a pipe, stands for what stdin holds.

    Raises:
        RequestError: there is none, or one is too long or not UTF-8.
    """
    if not given and sys.stdin.isatty():
        raise RequestError('a prompt is needed; got none; write, for example, xplm generate "Hi"')
    return [_read_stdin() if text == STDIN else text for text in given or [STDIN]]


def read_text(path: str) -> str:
    """A whole text file, or stdin for "-".

    Raises:
        RequestError: it cannot be read, does not fit the free memory, or is not UTF-8.
    """
    limit = host_memory().limit
    at_most = None if limit is None else limit // BYTES_PER_BYTE
    if path == STDIN:
        return _decode(_read(sys.stdin.buffer, "stdin", at_most), "stdin")
    try:
        with Path(path).open("rb") as file:
            content = _read(file, path, at_most)
    except OSError as error:
        raise RequestError(f'a text must be readable; got "{path}": {error.strerror}') from error
    return _decode(content, path)


def _read_stdin() -> str:
    """Stdin, without the line end that `echo` adds."""
    content = _read(sys.stdin.buffer, "stdin", MAX_PROMPT_BYTES)
    return _decode(content, "stdin").removesuffix("\n")


def _read(stream: BinaryIO, name: str, at_most: int | None) -> bytearray:
    """All that a stream holds, which may never end."""
    content = bytearray()
    while block := stream.read(BLOCK_BYTES):
        content += block
        if at_most is not None and len(content) > at_most:
            raise RequestError(
                f"a text must have at most {format_bytes(at_most)}; {name} holds more; shorten it"
            )
    return content


def _decode(content: bytearray, name: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"a text must be UTF-8; {name} has byte {content[error.start]:#04x} at {error.start}; "
            "convert it first"
        ) from error
