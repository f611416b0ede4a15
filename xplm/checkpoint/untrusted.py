"""Reading files that may be damaged, or made to do harm.

Every file that is read whole is a regular file of a stated size at most: a device, a FIFO or a huge sparse file is
refused before a byte is read. JSON and TOML give shallow values of valid Unicode without an integer beyond float64:
such values can be printed, compared and converted. Weights are read, not mapped: a file that is shortened meanwhile is
an error, where a mapping would end the process.
"""

import errno
import json
import os
import re
import stat
import tomllib
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from xplm.errors import CheckpointError, XplmError

MAX_SMALL_BYTES = 16 * 2**20
"""Of a configuration, an index, a chat or a template; the largest tokenizer_config.json are a few MiB."""

MAX_LARGE_BYTES = 64 * 2**20
"""Of a tokenizer or a header; those of a vocabulary of 262,144 tokens are about 35 MiB."""

MAX_TOML_BYTES = 64 * 2**10
"""Of a recipe; tomllib takes time that grows with the square of the size."""

MAX_DEPTH = 64
"""Of lists and objects in each other."""

MAX_INT = 2**1000

MAX_KEY_PARTS = 32
"""Of a dotted key in TOML; tomllib takes time that grows with the square of their number."""

TOO_DEEP = f"lists and objects nested more than {MAX_DEPTH} deep"

_KEY_PART = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+"""
_LONG_KEY = re.compile(rf"(?<![\w-])(?:{_KEY_PART}){{{MAX_KEY_PARTS}}}")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")


class Stamp(NamedTuple):
    """Which file this is, and in which state: it differs once the file is replaced or written to."""

    device: int
    inode: int
    n_bytes: int
    modified: int  # nanoseconds


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        OSError: it cannot be opened, or is a directory, a device, a FIFO or a socket.
    """
    try:
        mode = os.stat(path).st_mode
    except ValueError as cause:  # a zero byte, or half a surrogate pair
        raise OSError(errno.EINVAL, f"no file can have this name ({cause})") from cause
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):  # checked before it is opened, which waits for a FIFO's writer
        raise OSError(errno.EINVAL, "it is not a regular file")
    return open(path, "rb")


def read_bytes(path: Path, at_most: int = MAX_SMALL_BYTES) -> bytes:
    """Read a whole file.

    Raises:
        OSError: it cannot be read, is not a regular file, or has more than `at_most` bytes.
    """
    with open_regular(path) as file:
        n_bytes = os.fstat(file.fileno()).st_size
        content = b"" if n_bytes > at_most else file.read(at_most + 1)
    if max(n_bytes, len(content)) > at_most:
        raise OSError(errno.EFBIG, f"it must have at most {at_most} bytes, and has more")
    return content


def read_text(path: Path, at_most: int = MAX_SMALL_BYTES) -> str:
    """Read a whole file of UTF-8 text, without its byte order mark.

    Raises:
        OSError: as `read_bytes`.
        ValueError: it is not UTF-8.
    """
    return read_bytes(path, at_most).decode("utf-8-sig")


def read_whole_lines(path: Path, at_most: int) -> list[bytes]:
    """The lines of a file that a process adds to; what follows the last line end is half a line, and left out.

    Raises:
        OSError: as `read_bytes`.
    """
    return read_bytes(path, at_most).split(b"\n")[:-1]


def read_json_object(
    path: Path, error: type[XplmError] = CheckpointError, at_most: int = MAX_SMALL_BYTES
) -> dict[str, Any]:
    """Read a file that must hold one JSON object.

    Args:
        path: the file.
        error: what to raise.
        at_most: bytes that it may have.

    Raises:
        XplmError: of the given type; as `read_text` and `parse_json`, or the value is not an object.
    """
    try:
        value = parse_json(read_text(path, at_most))
    except OSError as cause:
        raise error(f"{path} must be readable; got: {cause.strerror}") from cause
    except ValueError as cause:
        raise error(f"{path} must hold JSON; got: {cause}; download it again") from cause
    if not isinstance(value, dict):
        raise error(f"{path} must hold a JSON object; got a {type(value).__name__}")
    return value


def parse_json(text: str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: it is not JSON, or its values are not plain (see the module).
    """
    try:
        value = json.loads(text)
        _check_plain(value)
        if _SURROGATE.search(text):  # most are one half of a pair, which is valid
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as cause:
        raise ValueError("a lone surrogate, which is no Unicode") from cause
    except RecursionError as cause:
        raise ValueError(TOO_DEEP) from cause
    return value


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        ValueError: it is not TOML, or its values are not plain (see the module).
    """
    if _LONG_KEY.search(text):
        raise ValueError(f"a key of more than {MAX_KEY_PARTS} parts")
    try:
        tables = tomllib.loads(text)
        _check_plain(tables)
    except RecursionError as cause:
        raise ValueError(TOO_DEEP) from cause
    return tables


def take_stamp(file: BinaryIO) -> Stamp:
    """The stamp of an open file."""
    found = os.fstat(file.fileno())
    return Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def reopen(path: Path, stamp: Stamp, offset: int) -> BinaryIO:
    """Open a file again, at an offset.

    Raises:
        OSError: it cannot be opened, or is another file by now, or was written to.
    """
    file = open_regular(path)
    if take_stamp(file) != stamp:
        file.close()
        raise OSError(errno.ESTALE, "it was changed after it was opened")
    file.seek(offset)
    return file


def read_into(file: BinaryIO, array: Any) -> None:
    """Fill a contiguous array with the next bytes of a file.

    Raises:
        OSError: the file ends before.
    """
    space = memoryview(array.reshape(-1).view("u1"))
    while space:
        taken = file.readinto(space)  # type: ignore[attr-defined]  # BinaryIO lacks it
        if not taken:
            raise OSError(errno.EIO, f"the last {len(space)} bytes are missing")
        space = space[taken:]


def _check_plain(value: Any) -> None:
    """Raise ValueError where containers are nested too deep, or an integer is beyond MAX_INT."""
    level = [value]
    for _ in range(MAX_DEPTH):
        if any(type(item) is int and abs(item) > MAX_INT for item in level):
            raise ValueError("an integer beyond the range of float64")
        level = [
            item
            for outer in level
            if isinstance(outer, dict | list)
            for item in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise ValueError(TOO_DEEP)
