"""Clipping by the global norm."""

import numpy as np
import pytest

from tests.helpers import assert_on, to_numpy
from xplm.backend import load_backend
from xplm.params import global_norm
from xplm.train.clip import clip_by_global_norm

GRADS = {"a": [[3.0, 0.0]], "b": [0.0, 4.0, 12.0]}  # norm sqrt(9 + 16 + 144) = 13


def place(backend, grads, dtype=np.float32):
    return {name: backend.from_host(np.asarray(host, dtype)) for name, host in grads.items()}


def test_clipping_keeps_the_direction(backend):
    clipped, norm = clip_by_global_norm(place(backend, GRADS), 6.5)
    assert to_numpy(backend, norm) == 13.0  # before clipping
    for name, host in GRADS.items():
        assert_on(backend, clipped[name], dtype="float32", shape=np.shape(host))
        np.testing.assert_array_equal(to_numpy(backend, clipped[name]), np.multiply(host, 0.5))


def test_clipping_fires_where_no_tensor_alone_is_too_long(numpy_backend):
    grads = place(numpy_backend, {str(n): [3.0] for n in range(100)})  # 3 each, 30 together
    clipped, norm = clip_by_global_norm(grads, 5.0)
    assert norm == 30.0
    np.testing.assert_allclose(global_norm(clipped), 5.0, rtol=1e-6)


@pytest.mark.parametrize("max_norm", [13.0, 20.0, None])
def test_what_is_short_enough_stays_bitwise(numpy_backend, max_norm):
    clipped, norm = clip_by_global_norm(place(numpy_backend, GRADS), max_norm)
    assert norm == 13.0
    for name, host in GRADS.items():
        np.testing.assert_array_equal(clipped[name], host)


def test_zero_gradients_stay_zero(numpy_backend):
    clipped, norm = clip_by_global_norm(place(numpy_backend, {"a": [0.0, 0.0]}), 1.0)
    assert norm == 0.0
    assert not clipped["a"].any()


def test_gradients_are_not_written_to():
    backend = load_backend("numpy")
    grads = place(backend, GRADS, np.float64)
    for array in grads.values():
        array.flags.writeable = False
    clipped, norm = clip_by_global_norm(grads, 1.0)
    assert norm.dtype == clipped["a"].dtype == np.float64
    np.testing.assert_array_equal(grads["a"], GRADS["a"])
