"""How many threads a computation takes, where a library has one number of them for the whole process.

A computation holds its number while it runs, and the library has its own again afterwards. Of numbers that are held at
the same time, by several Python threads or one inside the other, the least counts; and so does the library's own, which
the user may have set.
"""

import ctypes
import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from importlib import import_module
from numbers import Integral
from threading import Lock
from typing import Any

from xplm.errors import BackendError

MOST_THREADS = 1024
"""More than any machine has cores; a system refuses to start very many."""

logger = logging.getLogger(__name__)

Undo = Callable[[], None]


class SharedNumber:
    """A library's number of threads, held at the least of what computations ask for."""

    def __init__(self, read: Callable[[], int], change: Callable[[int], Undo]) -> None:
        """`read` returns the number; `change` sets it, and returns what restores the one before."""
        self._read, self._change = read, change
        self._own = 0  # the library's; of no meaning while nobody holds one
        self._lock = Lock()
        self._holds: set[_Hold] = set()  # that are entered
        self._now = 0  # what it was set to last; of no meaning while nobody holds one
        self._undo: Undo | None = None  # restores the library's own
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def hold(self, threads: int) -> AbstractContextManager[None]:
        """A limit of `threads` threads while this is entered, once."""
        return _Hold(self, threads)

    def add(self, hold: "_Hold") -> None:
        """One more is entered."""
        with self._lock:
            self._holds.add(hold)
            self._update()

    def remove(self, hold: "_Hold") -> None:
        """One less; in a child forked meanwhile it is not there."""
        with self._lock:
            self._holds.discard(hold)
            self._update()

    def _update(self) -> None:
        """Have the library follow what is held."""
        if not self._holds:
            if self._undo is not None:
                self._undo()
                self._undo = None
            return
        if self._undo is None:
            self._own = self._read()
        least = min([self._own, *[hold.threads for hold in self._holds]])
        if self._undo is None:
            self._undo = self._change(least)
        elif least != self._now:
            self._change(least)
        self._now = least

    def _forget(self) -> None:
        """In a forked child: the threads that held a number, or the lock, are not there."""
        self._lock = Lock()
        self._holds = set()
        self._update()


class _Hold:
    __slots__ = ("number", "threads")

    def __init__(self, number: SharedNumber, threads: int) -> None:
        self.number, self.threads = number, threads

    def __enter__(self) -> None:
        self.number.add(self)

    def __exit__(self, *_: object) -> None:
        self.number.remove(self)


def count_cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def hold_blas(threads: int) -> AbstractContextManager[None]:
    """Limit NumPy's BLAS to `threads` threads while this is entered."""
    blas = _blas()
    return nullcontext() if blas is None else blas.hold(threads)


def limit_blas(threads: int) -> AbstractContextManager[None]:
    """The same, as the `limit_threads` of a backend whose products are NumPy's; one line where BLAS takes no number."""
    if _blas() is None:
        _tell_of_unknown_blas()
    return hold_blas(threads)


def check_threads(threads: Any, most: int = MOST_THREADS, reason: str = "") -> int:
    """A number of threads.

    Args:
        threads: what was asked for.
        most: the largest number allowed.
        reason: for it, and what to do about it.

    Raises:
        BackendError: it is not an integer from 1 to `most`.
    """
    is_number = isinstance(threads, Integral) and not isinstance(threads, bool)
    if not is_number or not 1 <= threads <= most:
        raise BackendError(f"threads must be an integer from 1 to {most}{reason}; got {threads!r}")
    return int(threads)


def refuse_forks(library: str) -> Callable[[], AbstractContextManager[None]]:
    """A backend's `computing`, for a library whose threads a forked child lacks: this process may, its children not."""
    owner = os.getpid()

    def computing() -> AbstractContextManager[None]:
        if os.getpid() != owner:
            raise BackendError(
                f'a process that computes must be started by "spawn" or "forkserver" where {library} runs in its '
                'parent; this one was forked; use multiprocessing.get_context("spawn")'
            )
        return nullcontext()

    return computing


@cache
def _blas() -> SharedNumber | None:
    """NumPy's BLAS; None where it takes no number of threads from a program."""
    library = ctypes.CDLL(import_module("numpy._core._multiarray_umath").__file__)
    try:  # as NumPy's wheels name it: threadpoolctl finds it too, but takes 20 ms of a first token to import
        get_threads = library.scipy_openblas_get_num_threads64_
        set_threads = library.scipy_openblas_set_num_threads64_
    except AttributeError:
        return _blas_of_threadpoolctl()

    def change(threads: int) -> Undo:
        before = get_threads()
        set_threads(threads)
        return partial(set_threads, before)

    return SharedNumber(get_threads, change)


def _blas_of_threadpoolctl() -> SharedNumber | None:
    """Every BLAS in this process that threadpoolctl knows: OpenBLAS, MKL, BLIS."""
    from threadpoolctl import OpenBLASController, ThreadpoolController

    found = ThreadpoolController().select(user_api="blas")
    if not found.lib_controllers:
        return None

    def read() -> int:
        return max(library.num_threads for library in found.lib_controllers)

    def release() -> None:  # or no other Python thread could change the number
        OpenBLASController.clear_controlling_thread()

    def change(threads: int) -> Undo:
        limiter = found.limit(limits=threads, user_api="blas")
        release()

        def undo() -> None:
            limiter.restore_original_limits()
            release()

        return undo

    return SharedNumber(read, change)


@cache
def _tell_of_unknown_blas() -> None:
    logger.warning(
        "NumPy's BLAS takes no number of threads from a program: its products run on as many as it "
        "started with; set VECLIB_MAXIMUM_THREADS (macOS) or OMP_NUM_THREADS in the environment"
    )
