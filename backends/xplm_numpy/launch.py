"""Parallel kernels under each of numba's threading layers, in Python threads and in forked processes.

    layer       several Python threads at once    after a fork
    omp         yes                               GNU's (Linux): its threads stay with the parent; others: yes
    tbb         yes                               yes
    workqueue   ends the process                  yes

So under `workqueue` kernels run one at a time. In a child that was forked after GNU's OpenMP had started, they run on
one thread: a team of one needs no other, and PyTorch's data loaders rely on the same. numba ends such a child unless
its layer takes the child for its parent; where that cannot be arranged, a kernel raises.

Which layer there is numba decides when the first kernel is loaded. From then on the check costs a kernel 0.1
microseconds.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from importlib import import_module
from threading import RLock
from typing import Any

from xplm.errors import BackendError
from xplm.threads import check_threads as check_number
from xplm.threads import limit_blas
from xplm_numpy.border import NumbaError, border
from xplm_numpy.compiler import COMPILER

logger = logging.getLogger(__name__)

numba: Any = import_module("numba")  # whose types leave out the names that follow


class _Process:
    """What this process knows of numba's threads."""

    def __init__(self) -> None:
        """Nothing is known before the first kernel."""
        self.is_free = False  # kernels are launched without further ado
        self.one_at_a_time = RLock()
        self.is_serial = False  # forked after OpenMP had started
        self.has_said_so = False
        self.refusal: Exception | None = None  # why a child cannot even do that


_process = _Process()


def launched(kernel: Any) -> Callable[..., Any]:
    """A kernel with `prange`, as Python calls it; `__wrapped__` is numba's dispatcher."""

    @wraps(kernel, updated=())
    def launch(*arguments: Any) -> Any:
        if _process.is_free:
            return kernel(*arguments)
        with _turn():
            return kernel(*arguments)

    return launch


def limit_threads(threads: int) -> AbstractContextManager[None]:
    """Limit this Python thread's kernels, and BLAS, to `threads` threads while this is entered."""
    return _limited(check_number(threads))


def check_threads(threads: int) -> None:
    """Refuse more threads than kernels have.

    Raises:
        BackendError: numba has fewer.
    """
    reason = ", as many as numba has in this process (NUMBA_NUM_THREADS in the environment)"
    check_number(threads, numba.config.NUMBA_NUM_THREADS, reason)


@contextmanager
def _limited(threads: int) -> Iterator[None]:
    with limit_blas(threads):
        before = numba.get_num_threads()
        most = 1 if _process.is_serial else numba.config.NUMBA_NUM_THREADS
        numba.set_num_threads(min(threads, most))
        try:
            yield
        finally:
            numba.set_num_threads(1 if _process.is_serial else before)  # forked meanwhile


def _turn() -> AbstractContextManager[Any]:
    """What a kernel runs in: the first one, all in a child on one thread, and all under `workqueue`."""
    if _process.refusal is not None:
        raise _process.refusal
    if _process.is_serial:
        if not _process.has_said_so:
            _process.has_said_so = True
            logger.warning(
                "this process was forked after OpenMP's threads had started: its kernels run on one thread; "
                'start processes by "spawn" or "forkserver" for more'
            )
        numba.set_num_threads(1)  # of this Python thread: a new one begins with all of them
        return nullcontext()
    numba.get_num_threads()  # starts the layer, which then has a name
    if numba.threading_layer() == "workqueue":
        return _process.one_at_a_time
    _process.is_free = True
    return nullcontext()


def _after_fork() -> None:
    """In a child: kernels have one thread if GNU's OpenMP had started. Nothing is loaded here."""
    global _process
    had_started, _process = _layer() == "omp" and sys.platform.startswith("linux"), _Process()
    if not had_started:
        return
    try:
        _take_over_openmp()
    except NumbaError as error:
        _process.refusal = BackendError(
            'a process that computes must be started by "spawn" or "forkserver"; this one was forked from one '
            f"whose OpenMP threads had started, and numba cannot compute in it on one thread ({error}); "
            'use multiprocessing.get_context("spawn")'
        )
        return
    _process.is_serial = True
    numba.set_num_threads(1)


def _layer() -> str | None:
    """numba's layer, if it has started."""
    try:
        return str(numba.threading_layer())
    except ValueError:
        return None


def _take_over_openmp() -> None:
    """Have numba's layer take this process for the one that started it.

    Raises:
        NumbaError: it cannot.
    """
    insides = COMPILER.insides
    if insides is None:
        raise NumbaError("its internals are other than those tested")
    with border():
        insides.take_over_openmp(numba.config.NUMBA_NUM_THREADS)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
