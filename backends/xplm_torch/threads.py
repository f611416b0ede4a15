"""PyTorch's number of threads: that of a Python thread, and the one that a new Python thread begins with.

`torch.set_num_threads` sets both. So a computation sets its own number, and afterwards what there was before any
computation of this kind began.

A forked child has none of its parent's OpenMP threads, and would wait for them for ever. There PyTorch gets one thread,
as its own data loaders do.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from threading import Lock

import torch

from xplm.threads import check_threads


class _Own:
    """PyTorch's number where no computation holds another."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.n_holding = 0
        self.threads = 0  # of no meaning while nobody holds one
        self.most: int | None = None  # that are there


_own = _Own()


def limit_threads(threads: int) -> AbstractContextManager[None]:
    """At most so many threads of PyTorch, in this Python thread, while this is entered.

    Raises:
        BackendError: it is not a number of threads.
    """
    return _limited(check_threads(threads))


@contextmanager
def _limited(threads: int) -> Iterator[None]:
    with _own.lock:
        if _own.n_holding == 0:
            _own.threads = torch.get_num_threads()
        _own.n_holding += 1
        torch.set_num_threads(min(threads, _own.most or threads))
    try:
        yield
    finally:
        with _own.lock:
            _own.n_holding -= 1
            torch.set_num_threads(_own.threads)


@cache
def serial_in_forks() -> None:
    """From now on PyTorch has one thread in every process that is forked from this one."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    global _own
    _own = _Own()
    _own.most = 1
    torch.set_num_threads(1)
