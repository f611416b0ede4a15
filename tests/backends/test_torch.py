"""What PyTorch's adapter adds to what every adapter promises."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest

from tests.backends.missing import without
from tests.on_backends import load_or_skip
from xplm.backend import load_backend
from xplm.errors import BackendError

pytestmark = pytest.mark.backend("torch")


def test_every_bfloat16_crosses_with_its_bits():
    backend = load_or_skip("torch")
    bits = np.arange(2**16, dtype=np.uint16)
    array = backend.from_host(bits.view(ml_dtypes.bfloat16))
    assert array.dtype == backend.dtypes["bfloat16"]
    np.testing.assert_array_equal(backend.to_host(array).view(np.uint16), bits)


def test_an_array_is_a_copy_and_has_no_autograd():
    backend = load_or_skip("torch")
    host = np.zeros(3, np.float32)
    array = backend.from_host(host)
    host[:] = 1
    assert backend.to_host(array).tolist() == [0, 0, 0]
    assert not array.requires_grad


@pytest.mark.parametrize("device", ["cuda:7", "cuda:" + "9" * 5000])
def test_a_gpu_that_is_not_there_is_said(monkeypatch, device):
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install torch")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(BackendError, match=r"is not there: PyTorch .* sees 1 GPUs") as error:
        load_backend("torch", device)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_float32_products_in_less_are_refused(precision):
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install torch")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with pytest.raises(BackendError, match=f'must not round float32 products.*"{precision}"'):
            load_backend("torch")
    finally:
        torch.set_float32_matmul_precision(before)


def test_missing_torch_is_said_with_the_command_that_installs_it(monkeypatch):
    without(monkeypatch, "torch")
    with pytest.raises(BackendError, match=r"which is missing; run: pip install torch"):
        load_backend("torch")


def of_a_new_thread(function):
    """What a function returns in a Python thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def test_threads_are_held_in_their_python_thread_and_new_ones_begin_with_torchs_own():
    torch = pytest.importorskip("torch", reason="needs PyTorch: pip install torch")
    before, seen = torch.get_num_threads(), {}
    own = of_a_new_thread(torch.get_num_threads)
    everyone_holds = threading.Barrier(2)

    def work(n):
        with load_backend("torch", threads=n).computing():
            everyone_holds.wait(timeout=10)
            seen[n] = torch.get_num_threads()
        assert torch.get_num_threads() == own

    workers = [threading.Thread(target=work, args=(n,)) for n in (1, 3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert seen == {1: 1, 3: 3}
    assert of_a_new_thread(torch.get_num_threads) == own
    assert torch.get_num_threads() == before


@pytest.mark.nightly
def test_a_forked_child_computes_on_one_thread():
    load_or_skip("torch")
    program = """
import multiprocessing as mp
import torch
from xplm.backend import load_backend

backend = load_backend("torch")
a = torch.ones(1500, 1500)

def run(_=None):
    return float((a @ a).exp().sum())

if __name__ == "__main__":
    there = run()
    with mp.get_context("fork").Pool(2) as pool:
        print([here == there for here in pool.map_async(run, range(4)).get(timeout=30)])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=90, check=True
    )
    assert done.stdout == "[True, True, True, True]\n", done.stderr
