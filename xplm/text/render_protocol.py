"""What a process and its template renderer send each other: frames of bytes, and the limits of a render.

A frame is a length of 8 bytes, big-endian, and then as many bytes. Text is UTF-8 that may hold lone surrogates.

    request   a JSON object: "source", "cpu_seconds", and to render, not only to compile, "variables", "is_marked" and
              "now"
    reply     DONE and the text, or FAILED and what went wrong; the first one, DONE alone, says that the renderer is up
"""

import struct
from io import FileIO

CPU_SECONDS = 5
"""CPU time of one render, to the next whole second."""

MEMORY_BYTES = 2**29
"""Memory of the renderer."""

MAX_CHARS = 2**24
"""Length of a rendered chat: four times the text of a context of a million tokens."""

MAX_BYTES = 4 * MAX_CHARS + 1
"""Length of a frame, either way."""

DONE, FAILED = b"+", b"-"

_LENGTH = struct.Struct(">Q")


def encode(text: str) -> bytes:
    """The bytes of a text."""
    return text.encode("utf-8", "surrogatepass")


def decode(content: bytes) -> str:
    """The text of `encode`d bytes."""
    return content.decode("utf-8", "surrogatepass")


def write_frame(pipe: FileIO, content: bytes) -> None:
    """Write a frame.

    Raises:
        OSError: the pipe has no reader.
    """
    unsent = memoryview(_LENGTH.pack(len(content)) + content)
    while unsent:
        unsent = unsent[pipe.write(unsent) :]


def read_frame(pipe: FileIO) -> bytes:
    """Read a frame.

    Raises:
        EOFError: the pipe ends first, or the frame is longer than MAX_BYTES.
    """
    (length,) = _LENGTH.unpack(_read(pipe, _LENGTH.size))
    if length > MAX_BYTES:
        raise EOFError
    return _read(pipe, length)


def _read(pipe: FileIO, length: int) -> bytes:
    content = bytearray(length)
    missing = memoryview(content)
    while missing:
        n_read = pipe.readinto(missing)
        if not n_read:
            raise EOFError
        missing = missing[n_read:]
    return bytes(content)
