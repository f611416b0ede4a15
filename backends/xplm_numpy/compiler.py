"""The ways to compile a kernel, the best one first. One line of the log says when a process leaves one for the next.

    whole     by `xplm_numpy.numba_insides`, which needs names private to numba: the fastest to compile and to load
    plain     numba.njit(cache=True)
    memory    numba.njit(), nothing kept on disk

Where none of them compiles a kernel, `KernelError` has its portable twin run. All ways compile the same source; their
results may differ in the last bits, for LLVM may contract a product and a sum in other places.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from threading import RLock
from types import ModuleType
from typing import Any, NamedTuple

import numba
from numba.core.errors import NumbaError as NumbaSourceError

from xplm.errors import KernelError
from xplm_numpy.announce import note_compiled, note_compiling
from xplm_numpy.border import NumbaError, border
from xplm_numpy.kernel_cache import PACKAGE, KernelStore, folder_fault, own_stamp

WHOLE, PLAIN, MEMORY = "whole", "plain", "memory"

logger = logging.getLogger(__name__)


class _Kernel(NamedTuple):
    dispatcher: Any  # numba's
    is_kernel: bool  # called from Python, too
    plain: dict[str, Any]  # the dispatcher's attributes as numba.njit() made them


class Compiler:
    """The functions that this process may compile, and the way in which it does."""

    def __init__(self, insides: ModuleType | None, store: KernelStore, left: str = "") -> None:
        """In the best way there is.

        Args:
            insides: `xplm_numpy.numba_insides`; None where it cannot be imported.
            store: of kernels compiled as wholes.
            left: why there are no insides.
        """
        self.insides, self.store = insides, store
        self._ways = [WHOLE] * (insides is not None) + [PLAIN] * store.is_writable
        self._ways.append(MEMORY)
        self.way = self._ways[0]
        self._kernels: list[_Kernel] = []
        self._left = {WHOLE: left} if left else {}  # why, of what the log is yet to say
        self._refused: dict[Any, str] = {}  # why, by dispatcher and signature; by None: all are
        self._has_compiled = False
        self._lock: Any = RLock() if insides is None else insides.LOCK
        self._is_compiling = False  # in the Python thread that has the lock

    def add(self, dispatcher: Any, *, is_kernel: bool) -> None:
        """Have a dispatcher of numba.njit()'s compile in the way of this process, from now on."""
        kernel = _Kernel(dispatcher, is_kernel, dict(vars(dispatcher)))
        self._kernels.append(kernel)
        for way in self._ways[self._ways.index(self.way) :]:
            try:
                with border():
                    self._take(way) if way != self.way else self._prepare(kernel)
                return
            except NumbaError as error:
                self._left[way] = str(error)
        raise KernelError(f"numba must compile functions; it does not ({self._left[MEMORY]})")

    def _take(self, way: str) -> None:
        """Have everything compiled in one way."""
        if way != self.way:
            self.way = way
            for kernel in self._kernels:
                self._prepare(kernel)

    def _prepare(self, kernel: _Kernel) -> None:
        """Take a dispatcher back to what numba.njit() made, and on to what the present way needs."""
        dispatcher, attributes = kernel.dispatcher, vars(kernel.dispatcher)
        attributes.clear()
        for name, value in kernel.plain.items():
            attributes[name] = copy(value) if isinstance(value, dict) else value
        if self.way == WHOLE:
            assert self.insides is not None
            self.insides.adopt(dispatcher, is_kernel=kernel.is_kernel, store=self.store)
        elif self.way == PLAIN:
            folder = self._plain_folder()
            if fault := folder_fault(folder):
                raise PermissionError(f"{folder}: {fault}")
            with _kept_in(folder):
                dispatcher.enable_caching()
        attributes["compile"] = lambda signature: self._compile(dispatcher, signature)

    def _compile(self, dispatcher: Any, signature: Any) -> Any:
        """The entry point of a compiled form, for Python or for numba.

        Raises:
            KernelError: it compiles in no way.
        """
        with self._lock:
            if self._is_compiling:  # another function, which this is a part of
                return self._compile_so(dispatcher, signature)
            self._is_compiling = True
            try:
                return self._compile_somehow(dispatcher, signature)
            finally:
                self._is_compiling = False
                self.store.unlock()
                note_compiled()

    def before_fork(self) -> None:
        """Wait until no other Python thread compiles: a child lacks that thread, and would wait for it for ever."""
        self._lock.acquire()

    def after_fork(self) -> None:
        """In the parent and in the child: go on."""
        self._lock.release()

    def _compile_so(self, dispatcher: Any, signature: Any) -> Any:
        if self.way == WHOLE:
            assert self.insides is not None
            return self.insides.compile_or_load(dispatcher, signature)

        def count() -> int:
            return len(dispatcher.signatures) - sum(dispatcher.stats.cache_hits.values())

        before = count()
        entry_point = type(dispatcher).compile(dispatcher, signature)
        if count() > before:
            note_compiling(is_stored=False)
        return entry_point

    def _compile_somehow(self, dispatcher: Any, signature: Any) -> Any:
        function = f"{dispatcher.py_func.__module__}.{dispatcher.py_func.__qualname__}"
        for refused in (None, (dispatcher, signature)):
            if refused in self._refused:
                raise KernelError(f"{function} must compile; {self._refused[refused]}")

        first, left = self.way, dict(self._left)
        for way in self._ways[self._ways.index(first) :]:
            try:
                with border():
                    self._take(way)
                    entry_point = self._compile_so(dispatcher, signature)
            except NumbaError as error:
                self._left[way] = str(error)
                failure = error
                self.store.unlock()
                if way == PLAIN and isinstance(error.__cause__, NumbaSourceError):
                    break  # it is about the source, which the next way compiles alike
            else:
                self._has_compiled = True
                self._say_what_was_left()
                return entry_point

        reason = next(iter(self._left.values()))
        self._left = left
        with border():
            self._take(first)
        self._refused[(dispatcher, signature) if self._has_compiled else None] = reason
        logger.warning(
            "numba %s cannot compile %s (%s): %s, slower",
            numba.__version__,
            function,
            reason,
            "its portable twin runs" if self._has_compiled else "the portable kernels run",
        )
        raise KernelError(f"{function} must compile; {reason}") from failure

    def _say_what_was_left(self) -> None:
        for way, reason in self._left.items():
            if way == WHOLE:
                logger.warning(
                    "numba %s has other internals than the versions tested (%s): "
                    "plain numba.njit compiles the kernels, which takes several times as long",
                    numba.__version__,
                    reason,
                )
            else:
                folder = self._plain_folder()
                shutil.rmtree(folder, ignore_errors=True)
                logger.warning(
                    "numba cannot use the compiled kernels in %s (%s): "
                    "they are dropped, and compiled in memory",
                    folder,
                    reason,
                )
        self._left = {}

    def _plain_folder(self) -> Path:
        """For numba's own files. One for each version of the source: numba compares a function's own file only."""
        assert self.store.folder is not None
        return self.store.folder / f"plain-{own_stamp()[:16]}"


@contextmanager
def _kept_in(folder: Path) -> Iterator[None]:
    """numba's cache is in `folder` while this is entered."""
    config: Any = numba.config
    before = config.CACHE_DIR
    config.CACHE_DIR = str(folder)
    try:
        yield
    finally:
        config.CACHE_DIR = before


def make_compiler() -> Compiler:
    """The compiler of this process, with its folder."""
    try:
        with border():
            from xplm_numpy import numba_insides
    except NumbaError as error:
        return Compiler(None, _store(None), str(error))
    return Compiler(numba_insides, _store(numba_insides))


def _store(insides: ModuleType | None) -> KernelStore:
    return KernelStore.in_first(_folders(insides), _named_folder())


def _folders(insides: ModuleType | None) -> Iterator[Path]:
    """Where kernels may be stored: NUMBA_CACHE_DIR, next to their source, or the user's cache."""
    named = _named_folder()
    if named is not None:
        yield named
    yield PACKAGE / "__pycache__" / "kernels"
    users = Path("~/.cache/numba")
    try:
        with border():
            users = Path(insides.user_cache_folder()) if insides is not None else users
        users = users.expanduser()
    except (NumbaError, RuntimeError) as error:  # RuntimeError: there is no home
        logger.debug("no folder for compiled kernels in a home: %s", error)
    if users.is_absolute():
        yield users / _own_name()


def _named_folder() -> Path | None:
    """In the folder that NUMBA_CACHE_DIR names."""
    named = getattr(numba.config, "CACHE_DIR", "")
    return Path(named).absolute() / _own_name() if named else None


def _own_name() -> str:
    return f"xplm_{hashlib.sha256(bytes(PACKAGE)).hexdigest()[:16]}"


COMPILER = make_compiler()
"""Of all kernels."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=COMPILER.before_fork,
        after_in_parent=COMPILER.after_fork,
        after_in_child=COMPILER.after_fork,
    )
