"""What JAX's own switches mean for its backend, and what is missing said in one line."""

import types

import numpy as np
import pytest

from tests.backends.missing import without
from tests.on_backends import load_or_skip
from xplm.backend import load_backend
from xplm.errors import BackendError
from xplm.runtime import make_runtime

pytestmark = pytest.mark.backend("jax")


@pytest.fixture
def jax():
    return pytest.importorskip("jax", reason="needs JAX: pip install jax")


def test_without_x64_there_is_no_float64(jax):
    backend = load_or_skip("jax")
    assert set(backend.dtypes) == {"float32", "float16", "bfloat16"}
    with pytest.raises(BackendError, match="JAX_ENABLE_X64=1"):
        backend.from_host(np.zeros(1))
    with pytest.raises(BackendError, match="needs float64"):
        make_runtime(backend, "fp64")


def test_without_x64_integers_have_32_bits_and_none_is_cut(jax):
    backend = load_or_skip("jax")
    host = np.array([-(2**31), 2**31 - 1], np.int64)
    np.testing.assert_array_equal(backend.to_host(backend.from_host(host)), host)
    with pytest.raises(BackendError, match=r"32 bits .* got 2147483648"):
        backend.from_host(np.array([2**31], np.int64))


def test_with_x64_numbers_have_64_bits(jax):
    with jax.enable_x64(True):
        backend = load_backend("jax")
        assert "float64" in backend.dtypes
        for host in (np.array([1 + 2.0**-52]), np.array([2**40])):
            back = backend.to_host(backend.from_host(host))
            assert back.dtype == host.dtype
            np.testing.assert_array_equal(back, host)


def test_assign_leaves_the_array_as_it_was(jax):
    backend = load_or_skip("jax")
    array = backend.from_host(np.zeros(3, np.float32))
    written = backend.assign(array, slice(1, 3), backend.from_host(np.ones(2, np.float32)))
    assert backend.to_host(array).tolist() == [0, 0, 0]
    assert backend.to_host(written).tolist() == [0, 1, 1]


def pretend_gpus(monkeypatch, jax, n):
    there = [types.SimpleNamespace(platform="gpu", id=i) for i in range(n)]
    monkeypatch.setattr(jax, "devices", lambda kind: there)


def test_a_gpu_that_is_not_there_is_said(jax, monkeypatch):
    pretend_gpus(monkeypatch, jax, 1)
    with pytest.raises(BackendError, match=r"--device cuda:1 is not there: JAX .* sees 1 of cuda"):
        load_backend("jax", "cuda:1")


def test_a_gpu_that_would_round_products_is_refused(jax, monkeypatch):
    pretend_gpus(monkeypatch, jax, 1)
    with pytest.raises(BackendError, match="set JAX_DEFAULT_MATMUL_PRECISION=highest"):
        load_backend("jax", "cuda")
    with jax.default_matmul_precision("highest"):
        assert load_backend("jax", "cuda").device_name == "cuda:0"


def test_missing_jax_is_said_with_the_command_that_installs_it(monkeypatch):
    without(monkeypatch, "jax")
    with pytest.raises(BackendError, match=r"needs JAX, which is missing; run: pip install jax"):
        load_backend("jax")


def test_a_number_of_threads_is_refused(jax):
    with pytest.raises(BackendError, match='backend "jax" takes no number of threads; got 2'):
        load_backend("jax", threads=2)


def test_a_forked_child_is_refused_in_one_line_that_names_spawn(jax, monkeypatch):
    backend = load_backend("jax")
    monkeypatch.setattr("os.getpid", lambda: 1)
    for compute in (backend.computing, lambda: load_backend("jax")):
        with pytest.raises(BackendError, match='"spawn"'):
            compute()
