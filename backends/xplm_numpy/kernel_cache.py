"""Compiled kernels on disk.

numba takes a compiled function for stale when the file that it stands in has changed. A kernel is made of functions of
several files, so here all files of this package count.

Several processes use one directory, and any of them may be killed at any moment: the index, which says what a file
holds, is written after the file, and one process writes at a time.
"""

import hashlib
from collections.abc import Callable
from functools import cache, cached_property
from itertools import count
from pathlib import Path
from typing import Any

from llvmlite import binding
from numba.core import caching
from numba.core.runtime._nrt_python import c_helpers

from xplm_numpy.announce import note_waiting

PACKAGE = Path(__file__).parent


def source_stamp(package: Path) -> bytes:
    """What changes when any source file of a package does."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return digest.digest()


@cache
def _own_stamp() -> bytes:
    return source_stamp(PACKAGE)


@cache
def _export_runtime() -> None:
    """Let kernels find what of numba's runtime is written in C, under the names that they call it by."""
    for name, address in c_helpers.items():
        binding.add_symbol(name if name.startswith("_") else f"NRT_{name}", address)


class _OfPackage:
    """Makes a locator of numba's take the whole package for a function's source."""

    def get_source_stamp(self) -> bytes:
        return _own_stamp()


class _UserProvided(_OfPackage, caching.UserProvidedCacheLocator):
    pass


class _InTree(_OfPackage, caching.InTreeCacheLocator):
    pass


class _UserWide(_OfPackage, caching.UserWideCacheLocator):
    pass


class _KernelCacheImpl(caching.CompileResultCacheImpl):
    _locator_classes = [_UserProvided, _InTree, _UserWide]  # noqa: RUF012, as numba declares it


class _IndexLast(caching.IndexDataCacheFile):
    """Files of one function, whose index never names a file that holds something else."""

    def save(self, key: Any, data: Any) -> None:
        names = self._load_index()
        if key not in names:
            taken = set(names.values())
            names[key] = next(n for n in map(self._data_name, count(1)) if n not in taken)
        self._save_data(names[key], data)
        self._save_index(names)


class KernelCache(caching.FunctionCache):
    """numba's cache of one function.

    Of processes that lack the same kernel one compiles it, behind a lock, and the others wait for what it writes.
    Functions that are compiled into kernels each process compiles by itself: it may want them for another.
    """

    _impl_class = _KernelCacheImpl

    def __init__(self, function: Callable[..., Any], is_kernel: bool) -> None:
        """Of a kernel, or of a function that is compiled into kernels."""
        super().__init__(function)
        stamp = self._impl.locator.get_source_stamp()
        self._cache_file = _IndexLast(self.cache_path, self._impl.filename_base, stamp)
        self._is_kernel = is_kernel
        self._has_lock = False

    @cached_property
    def _lock(self) -> Any:
        from filelock import FileLock  # asyncio comes with it; what is on disk needs no lock

        return FileLock(f"{self.cache_path}/{self._impl.filename_base}.lock")

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """What is on disk for a signature; None if this process is to compile it, which then has a kernel's lock."""
        found = self._load(sig, target_context)
        if found is None and self._is_kernel:
            self._wait_for_lock()
            found = self._load(sig, target_context)
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        """Write what was compiled."""
        with self._lock:
            super().save_overload(sig, data)

    def let_go(self) -> None:
        """Give the lock back, if this process has it."""
        if self._has_lock:
            self._has_lock = False
            self._lock.release()

    def _wait_for_lock(self) -> None:
        from filelock import Timeout

        try:
            self._lock.acquire(timeout=0)
        except Timeout:  # another process compiles it
            note_waiting()
            self._lock.acquire()
        self._has_lock = True

    def _load(self, sig: Any, target_context: Any) -> Any:
        """As numba's `load_overload`, without what only a compiler needs.

        Its tables of all that it can compile are a third of a second and 30 MB; its runtime's own functions, which are
        compiled in each process and are part of each kernel on disk, a twentieth and 20 MB.
        """
        _export_runtime()
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)
