"""Compiled kernels on disk, as an optimisation: where a folder or a file is of no use, kernels are compiled in memory.

A file holds one function, compiled for one signature and one machine:

    MAGIC, SHA-256 of what it was compiled from, SHA-256 of the code, the code

A kernel is compiled from functions of several files, so every file of this package counts, as numba's version does. A
file compiled from something else is replaced. One that is damaged is dropped, before any of it is unpickled or run.

Code in these files runs with the rights of this process. So a folder must belong to this user, to root, or to the owner
of this package, and nobody else may write to it; a file that is read must belong to one of them, too. A digest does not
tell friend from foe.

Several processes use one folder, and any of them may be killed at any moment: a file appears whole or not at all. Locks
only save work: nobody waits for one longer than LOCK_SECONDS.
"""

import hashlib
import inspect
import logging
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from xplm_numpy.announce import note_waiting

READ_ONLY = "it is read-only"
PACKAGE = Path(__file__).parent
MAGIC = b"xplm kernel 1\n"
DIGEST_BYTES = hashlib.sha256().digest_size

LOCK_SECONDS = 120.0
"""Ten times the compilation of the largest kernel: a slow or busy machine takes a multiple of it."""

logger = logging.getLogger(__name__)


def source_stamp(package: Path) -> str:
    """A digest of all source files of a package."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


@cache
def own_stamp() -> str:
    """The stamp of this package."""
    return source_stamp(PACKAGE)


def file_name(function: Callable[..., Any], form: str) -> str:
    """The file of one compiled form of a function: the same name for all versions of its source."""
    path = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"
    python = f"{sys.implementation.name}{sys.version_info[0]}{sys.version_info[1]}"
    digest = hashlib.sha256(f"{function.__module__} {form}".encode()).hexdigest()[:16]
    return f"{re.sub('[^A-Za-z0-9_.]', '', path)}-{python}-{digest}.nbc"


def folder_fault(folder: Path) -> str | None:
    """Why a folder cannot hold this user's kernels, which it is made for if it is not there; None if it can."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        return error.strerror or str(error)
    if not _is_trusted(status):
        return "it belongs to another user"
    if hasattr(os, "geteuid"):  # elsewhere these bits mean nothing
        if status.st_mode & stat.S_IWOTH:
            return "everybody can write to it"
        if status.st_mode & stat.S_IWGRP and status.st_gid != os.getegid():
            return "another group can write to it"
    if not os.access(folder, os.W_OK | os.X_OK):
        return READ_ONLY
    return None


def _is_trusted(status: os.stat_result) -> bool:
    """Whether a file's owner may have this process run code; always, where files have no owners."""
    return not hasattr(os, "geteuid") or status.st_uid in _owners()


@cache
def _owners() -> set[int]:
    return {os.geteuid(), 0, PACKAGE.stat().st_uid}


class KernelStore:
    """The folder of compiled kernels of this process. It says one line about each kind of trouble, once."""

    def __init__(self, folder: Path | None, *, is_writable: bool = True) -> None:
        """In a folder without fault, or nowhere."""
        self.folder = folder
        self.is_writable = is_writable and folder is not None
        self._locks: list[Any] = []  # of a kernel, and of kernels that are parts of it
        self._patience = LOCK_SECONDS
        self._said: set[str] = set()

    @classmethod
    def in_first(cls, candidates: Iterable[Path], named: Path | None = None) -> "KernelStore":
        """In the first of some folders that is without fault; without one, in a read-only one that holds kernels.

        Args:
            candidates: the folders.
            named: the one of them that the user named. One line says why it is not taken.
        """
        faults: dict[Path, str] = {}
        for folder in candidates:
            fault = folder_fault(folder)
            if fault is None:
                if named is not None and named in faults:
                    logger.warning(
                        "NUMBA_CACHE_DIR names a folder that cannot keep kernels (%s: %s): they are kept in %s",
                        named,
                        faults[named],
                        folder,
                    )
                return cls(folder)
            faults[folder] = fault
        for folder, fault in faults.items():
            if fault == READ_ONLY and any(folder.glob("*.nbc")):
                return cls(folder, is_writable=False)
        logger.warning(
            "no folder can keep compiled kernels (%s): they are compiled at each start; "
            "NUMBA_CACHE_DIR names a folder of your own",
            "; ".join(f"{folder}: {fault}" for folder, fault in faults.items()),
        )
        return cls(None)

    def stamp(self, function: Callable[..., Any]) -> str:
        """A digest of the source that a function is compiled from: this package's, and its own file."""
        path, code = Path(inspect.getfile(function)), function.__code__
        if path.is_relative_to(PACKAGE):
            return own_stamp()
        content = path.read_bytes() if path.is_file() else repr((code.co_code, code.co_consts))
        return f"{own_stamp()} {content!r}"

    def load(self, name: str, key: str) -> bytes | None:
        """The code in a file; None if it is not there, was compiled from something else, or is of no use."""
        if self.folder is None:
            return None
        try:
            content = _read(self.folder / name)
        except FileNotFoundError:
            return None
        except OSError as error:
            self.drop(name, error.strerror or str(error))
            return None
        head = len(MAGIC) + DIGEST_BYTES
        if not content.startswith(MAGIC) or len(content) < head + DIGEST_BYTES:
            self.drop(name, "it is no kernel")
            return None
        compiled_from, data = content[len(MAGIC) : head], content[head + DIGEST_BYTES :]
        if compiled_from != hashlib.sha256(key.encode()).digest():
            return None
        if content[head : head + DIGEST_BYTES] != hashlib.sha256(data).digest():
            self.drop(name, "it is damaged")
            return None
        return data

    def save(self, name: str, key: str, data: bytes) -> None:
        """Write a file, whole or not at all. After a failure nothing more is written."""
        if self.folder is None:
            return
        if not self.is_writable:
            self._say_once(
                "written",
                f"{self.folder} is read-only: kernels that it lacks are compiled at each start",
            )
            return
        digests = hashlib.sha256(key.encode()).digest() + hashlib.sha256(data).digest()
        temporary = self.folder / f"{name}.{uuid4().hex[:16]}.tmp"
        try:
            try:
                temporary.write_bytes(MAGIC + digests + data)
                temporary.replace(self.folder / name)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            self.is_writable = False
            self._say_once(
                "written",
                f"compiled kernels cannot be written to {self.folder} ({error.strerror or error}): "
                "they are compiled at each start",
            )

    def drop(self, name: str, reason: str) -> None:
        """Remove a file that is of no use, so that it is compiled again."""
        assert self.folder is not None
        path = self.folder / name
        try:
            path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
            outcome = "it, and others like it, are dropped and compiled again"
        except OSError as error:
            outcome = f"it is compiled again, but cannot be removed ({error.strerror or error})"
        self._say_once(
            "dropped",
            f"a compiled kernel in {self.folder} cannot be used ({name}: {reason}): {outcome}",
        )

    def lock(self, name: str) -> bool:
        """Wait to be the one process that compiles a file. True where another one may have written it meanwhile."""
        if not self.is_writable:
            return False
        from filelock import FileLock, Timeout  # asyncio comes with it; loading needs no lock

        assert self.folder is not None
        lock = FileLock(f"{self.folder}/{name}.lock")
        try:
            try:
                lock.acquire(timeout=0)
            except Timeout:
                note_waiting()
                lock.acquire(timeout=self._patience)
        except Timeout:
            self._patience = 0.0  # of one line, and of one wait
            self._say_once(
                "locked",
                f"another process has not compiled {name} within {LOCK_SECONDS:.0f} s: "
                "this one compiles on its own",
            )
            return True
        except (OSError, NotImplementedError) as error:
            self._say_once("locked", f"{lock.lock_file} cannot be locked ({error}): this compiles")
            return False
        self._locks.append(lock)
        return True

    def unlock(self) -> None:
        """Give all locks back."""
        while self._locks:
            self._locks.pop().release()

    def _say_once(self, kind: str, line: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            logger.warning(line)


def _read(path: Path) -> bytes:
    """A file's content. Nothing is read from a device or a pipe, nor from a file of another user's."""
    with open(path, "rb", opener=_open_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is not a file")
        if not _is_trusted(status):
            raise OSError("it belongs to another user")
        return file.read()


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe would wait for its writer
