import numpy as np
import pytest
from array_api_compat import device

from tests.helpers import assert_on, to_numpy
from tests.tiny import change_mixers, make_config
from xplm.cache import KVCache
from xplm.precision import cast
from xplm.runtime import make_runtime

CONFIG = make_config()  # 2 layers, 2 key/value heads of width 4


def numbered(rt, T, value, batch=2):
    """k (B, K, T, D), a number of its own for each row and slot, on the device; v is -k."""
    rows = 100 * np.arange(batch)[:, None, None, None]
    host = value + rows + np.arange(T)[None, None, :, None] + np.zeros((batch, 2, T, 4))
    return cast(rt.backend.from_host(host), rt.dtype.compute)


def extend(rt, cache, T, value, counts=None):
    """T slots more of each row, of which `counts` are filled, all if it is None; the view of layer 0."""
    k, rows = numbered(rt, T, value, cache.batch), cache.rows()
    views = [cache.extend(layer, k, -k, rows) for layer in range(2)]
    cache.advance(counts or (T,) * cache.batch)
    return views[0]


def slots(rt, cache):
    """What layer 0 of each row holds in its filled slots, as numbers."""
    keys, values = cache.of_layer(0)[:2]
    keys, values = to_numpy(rt.backend, keys), to_numpy(rt.backend, values)
    np.testing.assert_array_equal(keys, -values)
    return [row[0, :n, 0].tolist() for row, n in zip(keys, cache.lengths, strict=True)]


def test_slots_follow_each_other(backend):
    rt = make_runtime(backend, "fp32")
    cache = KVCache.allocate(rt, CONFIG, batch=2, capacity=5)
    assert (cache.batch, cache.capacity, cache.lengths, cache.length) == (2, 5, (0, 0), 0)

    view = extend(rt, cache, 2, 10)
    assert_on(backend, view.keys, dtype="float32", shape=(2, 2, 5, 4))
    assert (view.rows.starts.shape, device(view.rows.starts)) == ((2,), backend.device)
    assert (view.rows.latest, view.rows.is_even) == (0, True)
    view = extend(rt, cache, 1, 20)
    assert (view.rows.latest, view.rows.is_even, backend.to_host(view.rows.starts).tolist()) == (
        2,
        True,
        [2, 2],
    )
    assert (cache.lengths, cache.length) == ((3, 3), 3)
    keys, values = (to_numpy(backend, array)[:, 1, :3, 3].tolist() for array in view[:2])
    assert keys == [[10, 11, 20], [110, 111, 120]]
    assert values == [[-10, -11, -20], [-110, -111, -120]]


def test_each_row_goes_on_behind_its_own_last_slot(backend):
    rt = make_runtime(backend, "fp32")
    cache = KVCache.allocate(rt, CONFIG, batch=3, capacity=6)
    extend(rt, cache, 3, 10, counts=(1, 3, 2))
    assert (cache.lengths, cache.length) == ((1, 3, 2), 3)
    view = extend(rt, cache, 2, 50)
    assert (view.rows.latest, view.rows.is_even, backend.to_host(view.rows.starts).tolist()) == (
        3,
        False,
        [1, 3, 2],
    )
    assert cache.lengths == (3, 5, 4)
    expected = [[10, 50, 51], [110, 111, 112, 150, 151], [210, 211, 250, 251]]
    assert slots(rt, cache) == expected
    for layer in range(2):
        keys = to_numpy(backend, cache.of_layer(layer).keys)
        assert [row[1, :n, 3].tolist() for row, n in zip(keys, (3, 5, 4), strict=True)] == expected


def test_a_row_may_wait_while_others_go_on(backend):
    rt = make_runtime(backend, "fp32")
    cache = KVCache.allocate(rt, CONFIG, batch=2, capacity=4)
    extend(rt, cache, 1, 10)
    extend(rt, cache, 1, 20, counts=(0, 1))
    assert cache.lengths == (1, 2)
    extend(rt, cache, 2, 30)
    assert slots(rt, cache) == [[10, 30, 31], [110, 120, 130, 131]]


def test_lengths_stay_until_they_are_advanced(backend):
    rt = make_runtime(backend, "fp32")
    cache = KVCache.allocate(rt, CONFIG, batch=2, capacity=4)
    k, rows = numbered(rt, 2, 5.0), cache.rows()
    for layer in range(2):
        view = cache.extend(layer, k, -k, rows)
        assert view.rows.latest == 0
    assert cache.lengths == (0, 0)
    cache.advance((2, 1))
    assert cache.lengths == (2, 1)
    assert cache.rows().begins == (2, 1)


def test_rollback_then_resend_equals_never_having_sent(backend):
    rt = make_runtime(backend, "fp32")
    cache = KVCache.allocate(rt, CONFIG, batch=2, capacity=6)
    extend(rt, cache, 2, 10)
    extend(rt, cache, 3, 50)
    cache.rollback(2)
    assert cache.length == 2
    extend(rt, cache, 2, 20)
    assert slots(rt, cache)[0] == [10, 11, 20, 21]
    cache.rollback(100)
    assert cache.length == 4


def test_rollback_leaves_shorter_rows_alone(numpy_backend):
    rt = make_runtime(numpy_backend, "fp32")
    cache = KVCache.allocate(rt, CONFIG, batch=3, capacity=6)
    extend(rt, cache, 4, 10, counts=(4, 1, 2))
    cache.rollback(2)
    assert cache.lengths == (2, 1, 2)
    extend(rt, cache, 1, 50)
    assert slots(rt, cache) == [[10, 11, 50], [110, 150], [210, 211, 250]]


def test_fork_is_independent(backend):
    rt = make_runtime(backend, "fp32")
    cache = KVCache.allocate(rt, CONFIG, batch=2, capacity=4)
    extend(rt, cache, 1, 10)
    fork = cache.fork()
    extend(rt, fork, 1, 20)
    extend(rt, cache, 1, 30)
    assert slots(rt, cache) == [[10, 30], [110, 130]]
    assert slots(rt, fork) == [[10, 20], [110, 120]]
    assert device_of(fork) == device_of(cache)


def device_of(cache):
    return device(cache.of_layer(0).keys)


def test_select_reorders_and_repeats_rows(backend):
    rt = make_runtime(backend, "fp32")
    cache = KVCache.allocate(rt, CONFIG, batch=2, capacity=4)
    extend(rt, cache, 1, 10)
    chosen = cache.select([1, 0, 1])
    assert (chosen.batch, chosen.length, chosen.capacity) == (3, 1, 4)
    assert slots(rt, chosen) == [[110], [10], [110]]
    extend(rt, cache, 1, 70)
    assert slots(rt, chosen) == [[110], [10], [110]]
    assert slots(rt, cache.select([0])) == [[10, 70]]


def test_selected_rows_keep_their_lengths(backend):
    rt = make_runtime(backend, "fp32")
    cache = KVCache.allocate(rt, CONFIG, batch=3, capacity=4)
    extend(rt, cache, 3, 10, counts=(1, 3, 2))
    chosen = cache.select([2, 0, 2])
    assert (chosen.lengths, chosen.length) == ((2, 1, 2), 2)
    extend(rt, chosen, 1, 50)
    assert slots(rt, chosen) == [[210, 211, 50], [10, 150], [210, 211, 250]]
    assert slots(rt, cache) == [[10], [110, 111, 112], [210, 211]]


def test_grow_keeps_what_is_filled(backend):
    rt = make_runtime(backend, "fp32")
    cache = KVCache.allocate(rt, CONFIG, batch=2, capacity=2)
    extend(rt, cache, 2, 10)
    cache.grow(5)
    assert (cache.capacity, cache.length) == (5, 2)
    extend(rt, cache, 3, 20)
    assert slots(rt, cache) == [[10, 11, 20, 21, 22], [110, 111, 120, 121, 122]]
    cache.grow(3)
    assert cache.capacity == 5


def test_grow_keeps_every_row_at_its_length(backend):
    rt = make_runtime(backend, "fp32")
    cache = KVCache.allocate(rt, CONFIG, batch=2, capacity=3)
    extend(rt, cache, 3, 10, counts=(1, 3))
    cache.grow(5)
    extend(rt, cache, 2, 20)
    assert slots(rt, cache) == [[10, 20, 21], [110, 111, 112, 120, 121]]


@pytest.mark.parametrize(("policy", "width"), [("fp32", 4), ("bf16", 2), ("bf16,cache=fp32", 4)])
def test_dtype_and_bytes_follow_the_policy(numpy_backend, policy, width):
    rt = make_runtime(numpy_backend, policy)
    cache = KVCache.allocate(rt, CONFIG, batch=3, capacity=7)
    assert cache.n_bytes == 2 * 2 * 3 * 2 * 7 * 4 * width  # k and v, L, B, K, S, D, bytes
    assert KVCache.count_bytes(rt, CONFIG, batch=3, capacity=7) == cache.n_bytes
    view = extend(rt, cache, 1, 1)
    assert view.keys.dtype == view.values.dtype == rt.dtype.cache


def test_values_may_have_a_width_of_their_own(backend):
    rt, config = make_runtime(backend, "fp32"), change_mixers(CONFIG, value_dim=6)
    cache = KVCache.allocate(rt, config, batch=2, capacity=3)
    assert cache.n_bytes == 2 * 2 * 2 * 3 * (4 + 6) * 4  # L, B, K, S, D + Dv, bytes
    assert KVCache.count_bytes(rt, config, batch=2, capacity=3) == cache.n_bytes

    k = numbered(rt, 1, 10)
    v = backend.xp.concat([k, k[..., :2]], axis=-1)
    view = cache.extend(0, k, v, cache.rows())
    assert_on(backend, view.keys, dtype="float32", shape=(2, 2, 3, 4))
    assert_on(backend, view.values, dtype="float32", shape=(2, 2, 3, 6))
    cache.advance((1, 1))
    cache.grow(4)
    assert [array.shape for array in cache.select([1]).of_layer(0)[:2]] == [
        (1, 2, 4, 4),
        (1, 2, 4, 6),
    ]


def test_latents_are_all_that_a_layer_of_them_keeps(backend):
    rt, config = make_runtime(backend, "fp32"), make_config(model_type="deepseek_v2")
    cache = KVCache.allocate(rt, config, batch=2, capacity=3)
    assert cache.n_bytes == 2 * 2 * 3 * (5 + 4) * 4  # L, B, S, R + P, bytes
    assert KVCache.count_bytes(rt, config, batch=2, capacity=3) == cache.n_bytes

    latents = numbered(rt, 2, 10)[:, :1, ...]  # (B, 1, T, 4)
    latents = backend.xp.concat([latents, latents, latents[..., :1]], axis=-1)
    view = cache.extend_latents(0, latents, cache.rows())
    assert_on(backend, view.latents, dtype="float32", shape=(2, 1, 3, 9))
    c, p, rows = view.parts(5)
    assert (c.shape, p.shape, rows.latest) == ((2, 1, 3, 5), (2, 1, 3, 4), 0)
    cache.advance((1, 2))
    cache.grow(4)
    chosen = cache.select([1, 0]).fork()
    assert chosen.lengths == (2, 1)
    more = chosen.extend_latents(0, latents[:, :, :1, :], chosen.rows()).latents
    found = to_numpy(backend, more)[:, 0, :, 0].tolist()
    assert [row[:n] for row, n in zip(found, (3, 2), strict=True)] == [[110, 111, 10], [10, 110]]


@pytest.mark.parametrize("T", [1, 2])
def test_slots_past_the_capacity_are_a_mistake(backend, T):
    rt = make_runtime(backend, "fp32")
    cache = KVCache.allocate(rt, CONFIG, batch=2, capacity=3)
    extend(rt, cache, 3, 10)
    with pytest.raises(AssertionError, match="capacity"):
        extend(rt, cache, T, 20)
    assert slots(rt, cache) == [[10, 11, 12], [110, 111, 112]]


def test_the_longest_row_must_fit(backend):
    rt = make_runtime(backend, "fp32")
    cache = KVCache.allocate(rt, CONFIG, batch=2, capacity=3)
    extend(rt, cache, 2, 10, counts=(0, 2))
    with pytest.raises(AssertionError, match="capacity"):
        extend(rt, cache, 2, 20)
    assert slots(rt, cache) == [[], [110, 111]]


def test_a_rollback_to_before_the_first_slot_is_a_mistake(numpy_backend):
    cache = KVCache.allocate(make_runtime(numpy_backend, "fp32"), CONFIG, batch=1, capacity=3)
    with pytest.raises(AssertionError, match="before the first"):
        cache.rollback(-3)
    assert cache.length == 0
