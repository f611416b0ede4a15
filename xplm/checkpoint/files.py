"""Writing files and directories that are whole or absent.

What is not complete has a temporary name in the same directory:

    .NAME.0123456789abcdef.partial      16 random digits: nobody can put a link there beforehand

Its writer holds a lock on it until the rename. One that is not locked is left over from a process that was killed; the
next that writes to NAME removes it. Where the platform or the file system has no such locks, it stays.
"""

import errno
import glob
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from xplm.checkpoint.untrusted import MAX_LARGE_BYTES, read_bytes
from xplm.errors import CheckpointError

NAME_CHARS = 40  # of a name that its temporary one shows
NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(
    os, "O_NONBLOCK", 0
)  # nor wait for a FIFO's writer


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write an object as indented JSON and flush it to the disk."""
    with path.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")
        file.flush()
        sync(file.fileno())


def copy_file(source: Path, target: Path) -> None:
    """Copy a tokenizer's file and flush it to the disk.

    Raises:
        CheckpointError: the source is not a regular file of at most MAX_LARGE_BYTES.
        OSError: the disk refuses.
    """
    try:
        content = read_bytes(source, MAX_LARGE_BYTES)
    except OSError as cause:
        raise CheckpointError(f"{source} must be readable; got: {cause.strerror}") from cause
    with target.open("wb") as file:
        file.write(content)
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


def _opens_directories() -> bool:
    """Whether directories can be opened, and open files renamed: not on Windows, which has none of our locks either."""
    return hasattr(os, "O_DIRECTORY")


def sync_directory(path: Path) -> None:
    """Wait until the names in a directory are on the disk, where directories can be opened."""
    if not _opens_directories():
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
        A temporary directory next to it to write into. It takes the name on success, and is removed on failure.

    Raises:
        CheckpointError: something is there already, or the disk refuses.
    """
    try:
        if path.name in ("", "..") or path.is_symlink():  # which no directory can be renamed to
            raise CheckpointError(
                f"a new directory must have a name of its own; {path} is none; choose another name"
            )
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise CheckpointError(f"{path} must not exist yet; remove it or choose another name")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial, descriptor = _new_partial(path, _make_directory)
    except OSError as cause:
        raise CheckpointError(f"{path} must be writable; got: {cause.strerror}") from cause
    try:
        yield partial
        rename(partial, path)
    except OSError as cause:
        raise CheckpointError(f"{path} could not be written: {cause.strerror}") from cause
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # gone already after a success
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Write a file that replaces another as a whole, or not at all. A link is replaced, not followed.

    Args:
        path: the file; one may be there already.
        mode: who may do what with it, less what the process's umask takes.

    Yields:
        An open temporary file next to it. It takes the name on success, and is removed on failure.

    Raises:
        OSError: the disk refuses.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # a rename would take a device away
        raise OSError(errno.EINVAL, "it is not a regular file")
    partial, descriptor = _new_partial(path, lambda name: _make_file(name, mode))
    assert descriptor is not None  # a file's
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            sync(file.fileno())
            if not _opens_directories():
                file.close()
            rename(partial, path)  # while it is open, and so locked, where that can be
    finally:
        with suppress(OSError):  # gone already after a success
            partial.unlink()


def link_or_copy(source: Path, path: Path) -> None:
    """Give a file a second name, in the place of what has it; a copy where the file system has no links.

    Raises:
        OSError: the disk refuses.
    """
    _remove_leftovers(path)
    partial = partial_name(path)
    try:
        os.link(source, partial)
    except OSError:
        with source.open("rb") as content, replacing(path) as file:
            shutil.copyfileobj(content, file)
        return
    try:
        rename(partial, path)
    finally:
        partial.unlink(missing_ok=True)  # renaming a link onto its own file does nothing


def is_partial(path: Path) -> bool:
    """Whether a file or directory has a temporary name."""
    return path.name.startswith(".") and path.name.endswith(".partial")


def partial_name(path: Path) -> Path:
    """A new temporary name for what is, or is to become, `path`."""
    # Cut, for a name of the longest length that a file system takes has no room for more.
    return path.parent / f".{path.name[:NAME_CHARS]}.{secrets.token_hex(8)}.partial"


def _make_directory(path: Path) -> int | None:
    path.mkdir()
    try:
        return os.open(path, os.O_RDONLY) if _opens_directories() else None
    except OSError:
        path.rmdir()
        raise


def _make_file(path: Path, mode: int) -> int:
    binary = getattr(os, "O_BINARY", 0)  # Windows
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | binary, mode)


def _new_partial(path: Path, make: Callable[[Path], int | None]) -> tuple[Path, int | None]:
    """A new file or directory that is to become `path`, locked, and its descriptor, which holds the lock.

    A directory has none where directories cannot be opened.
    """
    _remove_leftovers(path)
    while True:
        partial = partial_name(path)
        descriptor = make(partial)
        if descriptor is None:
            return partial, None
        with suppress(BlockingIOError):
            _lock(descriptor)
            if partial.exists():
                return partial, descriptor
        os.close(descriptor)  # another process took it for a leftover, before it was locked


def _remove_leftovers(path: Path) -> None:
    """Remove what killed processes left of `path`."""
    name = glob.escape(path.name[:NAME_CHARS])
    for left in path.parent.glob(f".{name}.{'[0-9a-f]' * 16}.partial"):
        with suppress(OSError):  # another user's, a link, or removed meanwhile
            descriptor = os.open(left, os.O_RDONLY | NO_LINK)
            try:
                if _lock(descriptor):
                    remove(left)
            finally:
                os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, or a directory with all that is in it.

    Raises:
        OSError: the disk refuses.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _lock(descriptor: int) -> bool:
    """Lock a file or directory until its descriptor is closed or the process ends.

    Returns:
        Whether it is locked; False where the platform or the file system has no locks.

    Raises:
        BlockingIOError: another process holds the lock.
    """
    try:
        import fcntl  # POSIX only

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except (ImportError, OSError):
        return False
    return True
