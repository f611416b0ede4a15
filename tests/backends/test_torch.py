"""What PyTorch's adapter adds to what every adapter promises."""

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
