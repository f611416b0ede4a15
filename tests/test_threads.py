"""A library's number of threads is held while something computes, and is its own again afterwards."""

import threading
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import xplm.threads as threads
from xplm import backend as backends
from xplm.backend import load_backend
from xplm.errors import BackendError
from xplm.threads import MOST_THREADS, SharedNumber, hold_blas, refuse_forks


class Library:
    """One number for the process."""

    def __init__(self):
        self.number = 8
        self.shared = SharedNumber(lambda: self.number, self.change)

    def change(self, n):
        before, self.number = self.number, n
        return lambda: setattr(self, "number", before)


def test_the_least_of_what_is_held_counts_and_the_library_has_its_own_again():
    library = Library()
    with library.shared.hold(4):
        assert library.number == 4
        with library.shared.hold(1):
            assert library.number == 1
            with library.shared.hold(6):
                assert library.number == 1
        assert library.number == 4
    assert library.number == 8
    library.number = 3  # the user's
    with library.shared.hold(16):
        assert library.number == 3
        with library.shared.hold(2):
            assert library.number == 2
        assert library.number == 3


def test_it_is_restored_in_whatever_order_holders_leave():
    library = Library()
    with ExitStack() as first, ExitStack() as second:
        first.enter_context(library.shared.hold(2))
        second.enter_context(library.shared.hold(3))
        first.close()
        assert library.number == 3
    assert library.number == 8


def test_it_is_restored_after_an_error():
    library = Library()
    with pytest.raises(InterruptedError), library.shared.hold(2):
        raise InterruptedError
    assert library.number == 8


def test_a_forked_child_begins_with_the_librarys_own():
    library = Library()
    hold = library.shared.hold(2)
    hold.__enter__()
    library.shared._lock.acquire()  # by a thread that the child lacks
    library.shared._forget()
    assert library.number == 8
    with library.shared.hold(5):
        assert library.number == 5
    assert library.number == 8


@pytest.fixture(params=["by NumPy's names", "by threadpoolctl"])
def blas(request, monkeypatch):
    """NumPy's BLAS, and how to ask for its number of threads."""
    from threadpoolctl import ThreadpoolController

    found = ThreadpoolController().select(user_api="blas").lib_controllers
    library = next(library for library in found if "numpy" in library.filepath)
    made = threads._blas() if request.param.endswith("names") else threads._blas_of_threadpoolctl()
    monkeypatch.setattr(threads, "_blas", lambda: made)
    before = library.num_threads
    library.set_num_threads(3)  # its own, on any machine
    yield lambda: library.num_threads
    library.set_num_threads(before)


def test_blas_takes_what_is_held_by_this_thread_and_by_others(blas):
    before = blas()
    seen = []

    def hold_one():
        with hold_blas(1):
            seen.append(blas())

    with hold_blas(2):
        seen.append(blas())
        other = threading.Thread(target=hold_one)
        other.start()
        other.join()
        seen.append(blas())
    assert (seen, blas()) == ([2, 1, 2], before)


def test_many_python_threads_leave_blas_as_it_was(blas):
    before, a = blas(), np.ones((40, 40), np.float32)

    def work(n):
        for _ in range(50):
            with hold_blas(n):
                a @ a

    workers = [threading.Thread(target=work, args=(1 + n % 3,)) for n in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert blas() == before


def test_a_blas_that_takes_no_number_is_named_once(monkeypatch, caplog):
    monkeypatch.setattr(threads, "_blas", lambda: None)
    threads._tell_of_unknown_blas.cache_clear()
    for _ in range(2):
        with threads.limit_blas(2):
            pass
    assert caplog.text.count("takes no number of threads from a program") == 1


@pytest.mark.parametrize("number", [0, -1, MOST_THREADS + 1, 10**30, 1.0, "2", True])
@pytest.mark.parametrize("name", ["numpy", "strict"])
def test_a_number_out_of_range_is_refused_when_a_backend_is_made(name, number):
    with pytest.raises(BackendError, match=r"threads must be an integer from 1 to \d+.*; got"):
        load_backend(name, threads=number)


def test_what_a_backend_enters_by_itself_it_enters_with_threads_too(monkeypatch):
    entered = []

    @contextmanager
    def own():
        entered.append("own")
        yield

    made = replace(load_backend("numpy"), computing=own)
    entry = SimpleNamespace(name="numpy", load=lambda: lambda device: made)
    monkeypatch.setattr(backends, "entry_points", lambda group: [entry])
    with backends.load_backend("numpy", threads=1, blas="openblas").computing():
        assert entered == ["own"]


def test_a_backend_without_a_number_of_threads_refuses_one(monkeypatch):
    made = replace(load_backend("numpy"), name="other", limit_threads=None)
    with pytest.raises(BackendError, match='backend "other" takes no number of threads; got 2'):
        backends._limit(made, 2)


def test_a_forked_child_is_refused_in_one_line_that_names_spawn(monkeypatch):
    computing = refuse_forks("a library")
    with computing():
        pass
    monkeypatch.setattr("os.getpid", lambda: 1)
    with pytest.raises(BackendError, match='"spawn"'):
        computing()
