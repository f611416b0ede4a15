"""Reading small JSON files that cannot be trusted, writing files that are whole or absent, reporting progress."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from xplm.errors import CheckpointError, XplmError

Progress: TypeAlias = Callable[[str, int, int | None], None]
"""Told what is being fetched, how many bytes of it are there, and how many it has (None: not known yet)."""

MAX_JSON_BYTES = 64 * 2**20  # the index of a model of a trillion parameters is under 10 MiB


def read_json_object(path: Path, error: type[XplmError] = CheckpointError) -> dict[str, Any]:
    """Read a file that must hold one JSON object.

    Args:
        path: the file.
        error: what to raise.

    Returns:
        The object.

    Raises:
        XplmError: of the given type; the file is missing, too large, not JSON, or not an object.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_JSON_BYTES + 1)
        if len(content) > MAX_JSON_BYTES:
            raise error(f"{path} must be at most {MAX_JSON_BYTES} bytes long; download it again")
        value = json.loads(content)
    except OSError as cause:
        raise error(f"{path} must be readable; got: {cause.strerror}") from cause
    except (ValueError, RecursionError) as cause:  # not UTF-8, not JSON, nested too deep
        raise error(f"{path} must hold JSON; got: {cause}; download it again") from cause
    if not isinstance(value, dict):
        raise error(f"{path} must hold a JSON object; got a {type(value).__name__}")
    return value


def one_line(text: str) -> str:
    """Text out of a file made fit for a message: line breaks and other control characters are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write an object as indented JSON and flush it to the disk."""
    with path.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")
        file.flush()
        sync(file.fileno())


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's content and flush it to the disk."""
    with source.open("rb") as content, target.open("wb") as file:
        shutil.copyfileobj(content, file)
        file.flush()
        sync(file.fileno())


def sync(descriptor: int) -> None:
    """Wait until what was written to an open file is on the disk."""
    os.fsync(descriptor)


def rename(partial: Path, path: Path) -> None:
    """Give a file or directory that is complete its name, and flush both names to the disk."""
    if partial.is_dir():
        sync_directory(partial)
    partial.replace(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Wait until the names in a directory are on the disk, where directories can be opened: not on Windows."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a refusal of the disk, while a file or directory is written, into an error that says which.

    Raises:
        CheckpointError: the disk refuses.
    """
    try:
        yield
    except OSError as cause:
        raise CheckpointError(f"{path} must be writable; got: {cause.strerror}") from cause


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Fill a directory that appears under its name only when it is complete.

    Args:
        path: the directory to make; an empty one may be there already.

    Yields:
        A temporary directory beside it to write into. It takes the name on success, and is removed on failure.

    Raises:
        CheckpointError: something is there already, or the disk refuses.
    """
    try:
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise CheckpointError(f"{path} must not exist yet; remove it or choose another name")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(
            tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
        )
        partial.chmod(0o755)  # mkdtemp makes it private
    except OSError as cause:
        raise CheckpointError(f"{path} must be writable; got: {cause.strerror}") from cause
    try:
        yield partial
        rename(partial, path)
    except OSError as cause:
        raise CheckpointError(f"{path} could not be written: {cause.strerror}") from cause
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # gone already after a success
