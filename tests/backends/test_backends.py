"""What each adapter promises."""

import numpy as np
import pytest

from tests.helpers import Place, assert_on
from xplm.backend import load_backend
from xplm.errors import BackendError
from xplm.precision import HOST_DTYPES


def test_arrays_go_to_the_device_and_come_back(place):
    host = np.arange(6, dtype=np.float64).reshape(2, 3)
    array = place.array(host)
    assert_on(place.backend, array, dtype=place.dtype, shape=(2, 3))
    back = place.backend.to_host(array)
    assert isinstance(back, np.ndarray)
    assert back.dtype == HOST_DTYPES[place.dtype]
    np.testing.assert_array_equal(back.astype(np.float64), host)


def test_integers_and_booleans_keep_their_dtype(backend):
    for host in (np.array([1, 2], np.int64), np.array([True, False])):
        back = backend.to_host(backend.from_host(host))
        assert back.dtype == host.dtype
        np.testing.assert_array_equal(back, host)


def test_assign_updates_a_slice(place):
    backend = place.backend
    array = backend.xp.zeros((2, 3), dtype=backend.dtypes[place.dtype], device=backend.device)
    key = (slice(None), slice(1, 3))
    written = backend.assign(array, key, place.array([[1, 2], [3, 4]]))
    back = place.backend.to_host(written).astype(np.float64)
    np.testing.assert_array_equal(back, [[0, 1, 2], [0, 3, 4]])


def test_memory_and_synchronize(backend):
    backend.synchronize()
    memory = backend.memory()
    assert memory.total > 0
    assert 0 <= memory.used <= memory.peak


def test_numpy_is_on_the_cpu_only():
    with pytest.raises(BackendError, match='"numpy" computes on the CPU; got --device cuda:1'):
        load_backend("numpy", "cuda:1")


def test_strict_has_three_address_spaces():
    devices = [load_backend("strict", device).device for device in ("cpu", "cuda", "cuda:1")]
    assert len({str(device) for device in devices}) == 3
    with pytest.raises(BackendError, match="got --device cuda:2"):
        load_backend("strict", "cuda:2")


def test_device1_refuses_an_implicit_trip_through_the_host(device1):
    array = Place(device1, "float32").array([1, 2])
    with pytest.raises(RuntimeError, match="device"):
        np.asarray(array)
    on_cpu = load_backend("strict").from_host(np.ones(2, np.float32))
    with pytest.raises(ValueError, match="device"):
        array + on_cpu
