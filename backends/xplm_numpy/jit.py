"""How the fused kernels are compiled.

A kernel's inner loop is a function of NumPy arrays that numba compiles for this machine at its first call and keeps on
disk. Sums may be reassociated, so that they fill vector registers; NaN and infinity keep their meaning. The order of a
sum depends on its length alone: work is cut into blocks of a fixed size and not by threads, so a result is the same,
bit for bit, from run to run and for any number of threads.

What a kernel calls is compiled into it, always. Left to itself, LLVM calls what is large, and then the kernel runs that
function as another process compiled it or as this one did, whichever was loaded first: sums in another order.

numba takes a compiled function for stale when the file that it stands in has changed. A kernel is made of functions of
several files, so here all files of this package count.
"""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core import caching, event
from numba.core.runtime.nrt import rtsys

from xplm.backend import PROGRESS

FAST = {"reassoc", "contract", "nsz", "arcp"}
"""What may change about float arithmetic: everything but NaN, infinity and approximate functions."""

PACKAGE = Path(__file__).parent


def serial(**options: Any) -> Callable[..., Any]:
    """A loop for one thread: what is small, or called from inside another."""
    usual: dict[str, Any] = {"fastmath": FAST, "error_model": "numpy", "forceinline": True}
    compiled = numba.njit(**usual | options)

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher: Any = compiled(function)
        compile_or_load = dispatcher.compile

        def in_turn(signature: Any) -> Any:
            if not isinstance(
                dispatcher._cache, KernelCache
            ):  # what numba.njit(cache=True) makes of its own at once
                dispatcher._cache = KernelCache(function, is_kernel="parallel" in options)
            try:
                return compile_or_load(signature)
            finally:
                dispatcher._cache.let_go()

        dispatcher.compile = in_turn
        return dispatcher

    return decorate


def exact() -> Callable[..., Any]:
    """A loop or a function in which the order of operations is the point: nothing is reassociated."""
    return serial(fastmath={"contract"})


def parallel() -> Callable[..., Any]:
    """A loop whose `prange` runs on all threads; nothing else of it does, and no two such loops become one."""
    others = (
        "comprehension",
        "reduction",
        "inplace_binop",
        "setitem",
        "numpy",
        "stencil",
        "fusion",
    )
    return serial(parallel={"prange": True} | dict.fromkeys(others, False))


def source_stamp(package: Path) -> bytes:
    """What changes when any source file of a package does."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return digest.digest()


@cache
def _own_stamp() -> bytes:
    return source_stamp(PACKAGE)


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
    _locator_classes = [_UserProvided, _InTree, _UserWide]  # noqa: RUF012


class KernelCache(caching.FunctionCache):
    """numba's cache of one function, on disk.

    Of processes that lack the same kernel one compiles it, behind a lock, and the others wait for what it writes. An
    inner function is compiled in less time than it takes to ask.
    """

    _impl_class = _KernelCacheImpl

    def __init__(self, function: Callable[..., Any], is_kernel: bool) -> None:
        """Of a kernel, or of an inner function."""
        super().__init__(function)
        self._is_kernel = is_kernel
        self._lock: Any = None

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """What is on disk for a signature; None if this process is to compile it, and has the lock."""
        found = self._load(sig, target_context)
        if found is None and self._is_kernel:
            from filelock import FileLock  # asyncio comes with it; what is on disk needs no lock

            self._lock = FileLock(f"{self.cache_path}/{self._impl.filename_base}.lock")
            self._lock.acquire()
            found = self._load(sig, target_context)
        return found

    def _load(self, sig: Any, target_context: Any) -> Any:
        """As numba's `load_overload`, without its tables of all that it can compile: a third of a second, 30 MB."""
        rtsys.initialize(target_context)  # what compiled code calls
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)

    def let_go(self) -> None:
        """Give the lock back, if there is one."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None


class _Announcer(event.Listener):
    """Says once that kernels are being compiled, for that takes seconds the first time, and calls who wants to know."""

    def __init__(self) -> None:
        self.is_said = False
        self.calls: list[Callable[[], None]] = []

    def on_start(self, compiling: event.Event) -> None:
        function = compiling.data["dispatcher"].py_func
        if not function.__module__.startswith(__package__):
            return
        if not self.is_said:
            self.is_said = True
            PROGRESS.info("compiling kernels for this machine, once; it takes half a minute")
        while self.calls:
            self.calls.pop()()

    def on_end(self, compiling: event.Event) -> None:
        pass


_ANNOUNCER = _Announcer()
event.register("numba:compile", _ANNOUNCER)


def before_compiling(call: Callable[[], None]) -> None:
    """Have something called once, as soon as a kernel has to be compiled."""
    _ANNOUNCER.calls.append(call)
