"""Kernels under numba's threading layers, in Python threads and in forked processes."""

import pickle
import subprocess
import sys
import threading
import time

import numba
import numpy as np
import pytest
import xplm_numpy.launch as launch
from xplm_numpy.launch import launched, limit_threads

from xplm.backend import load_backend
from xplm.errors import BackendError
from xplm.runtime import make_runtime


@pytest.fixture
def process(monkeypatch):
    """A process in which no kernel was launched yet."""
    made = launch._Process()
    monkeypatch.setattr(launch, "_process", made)
    threads = numba.get_num_threads()
    yield made
    numba.set_num_threads(threads)


@pytest.fixture
def openmp(process, monkeypatch):
    """GNU's OpenMP, whose threads have started."""
    monkeypatch.setattr(numba, "threading_layer", lambda: "omp")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(launch, "_take_over_openmp", lambda: None)


def greatest_at_once(n_threads):
    """Kernels that ran at the same time."""
    running, greatest = [], []

    @launched
    def kernel():
        running.append(1)
        greatest.append(len(running))
        time.sleep(0.002)
        running.pop()

    workers = [threading.Thread(target=kernel) for _ in range(n_threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return max(greatest)


@pytest.mark.parametrize(
    ("layer", "is_alone"), [("workqueue", True), ("omp", False), ("tbb", False)]
)
def test_kernels_take_turns_where_the_layer_cannot_serve_two_threads(
    process, monkeypatch, layer, is_alone
):
    monkeypatch.setattr(numba, "threading_layer", lambda: layer)
    assert (greatest_at_once(8) == 1) == is_alone
    assert process.is_free != is_alone


def test_a_kernel_that_raises_ends_its_turn(process, monkeypatch):
    monkeypatch.setattr(numba, "threading_layer", lambda: "workqueue")

    @launched
    def kernel():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        kernel()
    assert greatest_at_once(2) == 1


def test_numbers_of_threads_are_a_python_threads_own():
    most = numba.config.NUMBA_NUM_THREADS
    seen = {}

    def work(n):
        before = numba.get_num_threads()
        with limit_threads(n):
            entered.wait(timeout=10)
            seen[n] = numba.get_num_threads()
        assert numba.get_num_threads() == before

    workers = [threading.Thread(target=work, args=(n,)) for n in {1, most}]
    entered = threading.Barrier(len(workers))
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert seen == {n: n for n in (1, most)}


def test_more_threads_than_numba_has_are_refused_to_fused_kernels_only():
    most = numba.config.NUMBA_NUM_THREADS
    backend = load_backend("numpy", threads=most + 1)
    with pytest.raises(BackendError, match=f"from 1 to {most}, as many as numba has"):
        make_runtime(backend, "fp32")
    rt = make_runtime(backend, "fp32", "portable")  # whose products BLAS computes
    with rt.backend.computing():
        assert numba.get_num_threads() == most


def test_a_child_of_openmp_has_one_thread(openmp, caplog):
    launch._after_fork()
    with limit_threads(numba.config.NUMBA_NUM_THREADS):
        assert numba.get_num_threads() == 1
    assert greatest_at_once(1) == greatest_at_once(1) == 1
    assert caplog.text.count("run on one thread") == 1


def test_a_new_python_thread_of_such_a_child_has_one_too(openmp):
    launch._after_fork()
    seen = []

    def kernel():
        seen.append(numba.get_num_threads())

    for _ in range(2):  # the first kernel of the process, and a later one
        worker = threading.Thread(target=launched(kernel))
        worker.start()
        worker.join()
    assert seen == [1, 1]


def test_a_child_forked_while_threads_are_limited_keeps_one_afterwards(openmp):
    with limit_threads(numba.config.NUMBA_NUM_THREADS):
        launch._after_fork()
    assert numba.get_num_threads() == 1


def test_a_child_that_cannot_compute_is_refused_in_one_line_that_names_spawn(process, monkeypatch):
    monkeypatch.setattr(numba, "threading_layer", lambda: "omp")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setitem(sys.modules, "numba.np.ufunc.omppool", object())
    launch._after_fork()
    with pytest.raises(BackendError, match='"spawn"') as refused:
        launched(np.add)(1, 2)
    back = pickle.loads(pickle.dumps(refused.value))
    assert (type(back), str(back)) == (BackendError, str(refused.value))
    assert "\n" not in str(back)


@pytest.mark.parametrize(
    ("layer", "platform"), [("tbb", "linux"), ("workqueue", "linux"), ("omp", "darwin")]
)
def test_a_child_of_another_layer_has_all_threads(process, monkeypatch, layer, platform):
    monkeypatch.setattr(numba, "threading_layer", lambda: layer)
    monkeypatch.setattr(sys, "platform", platform)
    launch._after_fork()
    assert not launch._process.is_serial
    assert launch._process.refusal is None


FORKS = """
import multiprocessing as mp
import numpy as np
from xplm.backend import load_backend

swiglu = load_backend("numpy").kernels["swiglu_fwd"]
x = np.linspace(-4, 4, 2**16, dtype=np.float32)

def run(_=None):
    return swiglu(x, x)[0].tobytes()

if __name__ == "__main__":
    there = run()
    with mp.get_context("fork").Pool(2) as pool:
        print([here == there for here in pool.map_async(run, range(4)).get(timeout=20)])
"""


def test_forked_children_compute_what_their_parent_does():
    if sys.platform == "win32":
        pytest.skip("Windows has no fork")
    done = subprocess.run(
        [sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[True, True, True, True]\n", done.stderr
