import numpy as np
import pytest

from tests.helpers import assert_on, to_numpy
from tests.tiny import make_config
from xplm.cache import KVCache
from xplm.precision import cast
from xplm.runtime import make_runtime

CONFIG = make_config()  # 2 layers, 2 key/value heads of width 4


def numbered(rt, T, value, batch=2):
    """k (B, K, T, D), a number of its own for each row and slot, on the device; v is -k."""
    rows = 100 * np.arange(batch)[:, None, None, None]
    host = value + rows + np.arange(T)[None, None, :, None] + np.zeros((batch, 2, T, 4))
    return cast(rt.backend.from_host(host), rt.dtype.compute)


def write(rt, cache, T, value):
    k = numbered(rt, T, value, cache.batch)
    read = [cache.write(layer, k, -k) for layer in range(2)]
    cache.advance(T)
    return read[0]


def slots(rt, cache, T=0):
    """What layer 0 of row b holds in its slots, as numbers, T fresh slots of zeros included."""
    k = numbered(rt, T, 0.0, cache.batch) * 0
    keys, values = cache.fork().write(0, k, k)
    keys, values = to_numpy(rt.backend, keys), to_numpy(rt.backend, values)
    np.testing.assert_array_equal(keys, -values)
    return keys[:, 0, :, 0].tolist()


def test_writes_follow_each_other(backend):
    rt = make_runtime(backend, "fp32")
    cache = KVCache.allocate(rt, CONFIG, batch=2, capacity=5)
    assert (cache.batch, cache.capacity, cache.length) == (2, 5, 0)

    keys, _ = write(rt, cache, 2, 10)
    assert_on(backend, keys, dtype="float32", shape=(2, 2, 2, 4))
    keys, values = write(rt, cache, 1, 20)
    assert cache.length == 3
    assert to_numpy(backend, keys)[:, 1, :, 3].tolist() == [[10, 11, 20], [110, 111, 120]]
    assert to_numpy(backend, values)[:, 1, :, 3].tolist() == [[-10, -11, -20], [-110, -111, -120]]


def test_length_stays_until_it_is_advanced(backend):
    rt = make_runtime(backend, "fp32")
    cache = KVCache.allocate(rt, CONFIG, batch=2, capacity=4)
    k = numbered(rt, 2, 5.0)
    for layer in range(2):
        keys, _ = cache.write(layer, k, -k)
        assert keys.shape[2] == 2
    assert cache.length == 0
    cache.advance(2)
    assert cache.length == 2


def test_rollback_then_resend_equals_never_having_sent(backend):
    rt = make_runtime(backend, "fp32")
    cache = KVCache.allocate(rt, CONFIG, batch=2, capacity=6)
    write(rt, cache, 2, 10)
    write(rt, cache, 3, 50)
    cache.rollback(2)
    assert cache.length == 2
    keys, _ = write(rt, cache, 2, 20)
    assert to_numpy(backend, keys)[0, 0, :, 0].tolist() == [10, 11, 20, 21]
    cache.rollback(100)
    assert cache.length == 4


def test_fork_is_independent(backend):
    rt = make_runtime(backend, "fp32")
    cache = KVCache.allocate(rt, CONFIG, batch=2, capacity=4)
    write(rt, cache, 1, 10)
    fork = cache.fork()
    write(rt, fork, 1, 20)
    write(rt, cache, 1, 30)
    assert slots(rt, cache) == [[10, 30], [110, 130]]
    assert slots(rt, fork) == [[10, 20], [110, 120]]
    assert device_of(fork) == device_of(cache)


def device_of(cache):
    from array_api_compat import device

    return device(cache._keys[0])


def test_select_reorders_and_repeats_rows(backend):
    rt = make_runtime(backend, "fp32")
    cache = KVCache.allocate(rt, CONFIG, batch=2, capacity=4)
    write(rt, cache, 1, 10)
    chosen = cache.select([1, 0, 1])
    assert (chosen.batch, chosen.length, chosen.capacity) == (3, 1, 4)
    assert slots(rt, chosen) == [[110], [10], [110]]
    write(rt, cache, 1, 70)
    assert slots(rt, chosen) == [[110], [10], [110]]
    assert slots(rt, cache.select([0])) == [[10, 70]]


def test_grow_keeps_what_is_filled(backend):
    rt = make_runtime(backend, "fp32")
    cache = KVCache.allocate(rt, CONFIG, batch=2, capacity=2)
    write(rt, cache, 2, 10)
    cache.grow(5)
    assert (cache.capacity, cache.length) == (5, 2)
    write(rt, cache, 3, 20)
    assert slots(rt, cache) == [[10, 11, 20, 21, 22], [110, 111, 120, 121, 122]]
    cache.grow(3)
    assert cache.capacity == 5


@pytest.mark.parametrize(("policy", "width"), [("fp32", 4), ("bf16", 2), ("bf16,cache=fp32", 4)])
def test_dtype_and_bytes_follow_the_policy(numpy_backend, policy, width):
    rt = make_runtime(numpy_backend, policy)
    cache = KVCache.allocate(rt, CONFIG, batch=3, capacity=7)
    assert cache.n_bytes == 2 * 2 * 3 * 2 * 7 * 4 * width  # k and v, L, B, K, S, D, bytes
    assert KVCache.count_bytes(rt, CONFIG, batch=3, capacity=7) == cache.n_bytes
    keys, values = write(rt, cache, 1, 1)
    assert keys.dtype == values.dtype == rt.dtype.cache


@pytest.mark.parametrize("T", [1, 2])
def test_a_write_past_the_capacity_is_a_mistake(backend, T):
    rt = make_runtime(backend, "fp32")
    cache = KVCache.allocate(rt, CONFIG, batch=2, capacity=3)
    write(rt, cache, 3, 10)
    with pytest.raises(AssertionError, match="capacity"):
        write(rt, cache, T, 20)
    assert slots(rt, cache) == [[10, 11, 12], [110, 111, 112]]


def test_a_rollback_to_before_the_first_slot_is_a_mistake(numpy_backend):
    cache = KVCache.allocate(make_runtime(numpy_backend, "fp32"), CONFIG, batch=1, capacity=3)
    with pytest.raises(AssertionError, match="before the first"):
        cache.rollback(-3)
    assert cache.length == 0
