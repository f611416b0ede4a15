import math
import tracemalloc
from itertools import product

import numpy as np
import pytest

from tests import naive
from tests.helpers import (
    UNIT_ROUNDOFF,
    Place,
    assert_close,
    assert_on,
    pure,
    rounding_bound,
    to_numpy,
)
from tests.places import on_places
from xplm.emulation import emulate
from xplm.kernels.attention import attention_bwd, attention_fwd
from xplm.precision import Policy


def draw(place, seed, *, B=2, H=4, K=2, T=5, S=5, D=6, Dv=None):
    rng = np.random.default_rng(seed)
    shapes = ((B, H, T, D), (B, K, S, D), (B, K, S, Dv or D))
    return tuple(place.array(rng.standard_normal(shape)) for shape in shapes)


def check(place, q, k, v, first=None, sinks=None, **options):
    """Against one query at a time, with a bound from the lengths of both products."""
    on_device = None if first is None else place.ids(first)
    y, saved = pure(place.backend, attention_fwd, q, k, v, on_device, sinks, scale=0.4, **options)
    qh, kh, vh = (to_numpy(place.backend, a) for a in (q, k, v))
    logits = None if sinks is None else to_numpy(place.backend, sinks)
    options.pop("query_rows", None)
    expected, lse = naive.attention(qh, kh, vh, first, logits, scale=0.4, **options)

    # A score is off by D u |q||k|, and that, with its maximum's, is a relative error of exp; then S terms are summed.
    D, S = q.shape[-1], k.shape[2]
    score = 0.4 * np.linalg.norm(qh, axis=-1).max() * np.linalg.norm(kh, axis=-1).max()
    terms = S + (D + 4) * 2 * score + 8
    if options.get("cap") is not None:  # a quotient, a tanh of 4 units and a product, of a score
        terms += 12 * score
    bound = rounding_bound(place.dtype, terms=terms, magnitude=abs(vh).max())
    assert_close(place.backend, y, expected, dtype=place.dtype, bound=bound)
    lse_bound = rounding_bound(place.wide, terms=terms, magnitude=1.0)
    assert_close(place.backend, saved.lse, lse, dtype=place.wide, bound=lse_bound)


@pytest.mark.nightly_on("jax")
def test_two_queries_by_hand(backend):
    # The first query sees key 0 alone. The second has scores 0 and ln 3, so weights 1/4 and 3/4.
    place = Place(backend, "float64")
    q = place.array([[[[5.0], [1.0]]]])
    k = place.array([[[[0.0], [math.log(3) / 2]]]])
    v = place.array([[[[8.0], [16.0]]]])
    y, saved = pure(backend, attention_fwd, q, k, v, start=0, scale=2.0)
    assert_close(backend, y, np.array([[[[8], [14]]]]), dtype="float64", bound=16 * 2.0**-53 * 4)
    lse = np.array([[[0, math.log(4)]]])
    assert_close(backend, saved.lse, lse, dtype="float64", bound=8 * 2.0**-53)
    assert saved.q is q
    assert (saved.start, saved.scale, saved.window) == (0, 2.0, None)


@pytest.mark.nightly_on("jax")
def test_window_and_padding_by_hand(backend):
    # Equal scores: a query's result is the mean of the values that it sees.
    place = Place(backend, "float64")
    q, k = place.array(np.zeros((1, 1, 4, 1))), place.array(np.zeros((1, 1, 4, 1)))
    v = place.array(np.array([1, 2, 4, 8]).reshape(1, 1, 4, 1))
    y, _ = attention_fwd(q, k, v, start=0, scale=1.0, window=2)
    assert_close(backend, y[0, 0, :, 0], np.array([1, 1.5, 3, 6]), dtype="float64", bound=1e-15)
    y, saved = attention_fwd(q, k, v, place.ids([[2, 2, 2, 2]]), start=0, scale=1.0)
    assert_close(backend, y[0, 0, :, 0], np.array([0, 0, 4, 6]), dtype="float64", bound=1e-15)
    lse = np.array([-np.inf, -np.inf, 0, math.log(2)])
    assert_close(backend, saved.lse[0, 0, :], lse, dtype="float64", bound=1e-15)


@on_places(
    "sizes",
    [
        {"H": 4, "K": 4},  # multi-head
        {"H": 6, "K": 2},  # grouped-query
        {"H": 3, "K": 1},  # multi-query
        {"B": 1, "H": 1, "K": 1, "T": 1, "S": 1, "D": 1},
        {"T": 7, "S": 7, "D": 3},
        {"T": 7, "S": 7, "Dv": 4},
        {"D": 3, "Dv": 8},
    ],
    elsewhere={"T": 7, "S": 7, "Dv": 4},
)
def test_equals_one_query_at_a_time(place, sizes):
    q, k, v = draw(place, 11, **sizes)
    check(place, q, k, v, start=0)


@pytest.mark.nightly_on("jax")
@on_places(("T", "window"), product((1, 2, 5), (None, 1, 3, 100)), elsewhere=(5, 3))
def test_later_queries_see_the_cache(place, T, window):
    q, k, v = draw(place, 12, T=T, S=6 + T)
    check(place, q, k, v, start=6, window=window)


@pytest.mark.nightly_on("jax")
@on_places(("T", "window"), product((1, 5), (None, 2)), elsewhere=(5, 2))
def test_padding_is_never_seen(place, T, window):
    first = np.array([[3], [0]]) + np.zeros((2, T), np.int64)
    q, k, v = draw(place, 13, T=T, S=2 + T)
    check(place, q, k, v, first, start=2, window=window)

    noise = np.where(np.arange(2 + T)[:, None] < 3, 1e3, to_numpy(place.backend, k))
    changed = np.stack([noise[0], to_numpy(place.backend, k)[1]])
    y, _ = attention_fwd(q, k, v, place.ids(first), start=2, scale=1.0, window=window)
    other, _ = attention_fwd(
        q, place.array(changed), v, place.ids(first), start=2, scale=1.0, window=window
    )
    np.testing.assert_array_equal(to_numpy(place.backend, y), to_numpy(place.backend, other))


@on_places(
    ("query_rows", "padded", "window"),
    product((1, 3, 8), (False, True), (None, 2, 4)),
    elsewhere=(3, True, 4),
)
def test_chunks_equal_the_whole(place, query_rows, padded, window):
    q, k, v = draw(place, 14, T=8, S=10)
    first = np.array([[4], [0]]) + np.zeros((2, 8), np.int64) if padded else None
    check(place, q, k, v, first, start=2, window=window, query_rows=query_rows)


@pytest.mark.nightly_on("jax")
def test_a_cap_and_a_sink_by_hand(backend):
    # Scores 0 and 2 atanh(1/2) become 0 and 1 under a cap of 2. A sink of 1 makes the weights 1, e, e over 1 + 2e.
    place = Place(backend, "float64")
    q, k = place.array([[[[0.0], [2.0]]]]), place.array([[[[0.0], [math.atanh(0.5)]]]])
    v, sinks = place.array([[[[8.0], [16.0]]]]), place.array([1.0])
    y, saved = pure(backend, attention_fwd, q, k, v, None, sinks, start=0, scale=1.0, cap=2.0)
    e = math.e
    expected = np.array([[[[8 / (1 + e)], [(8 + 16 * e) / (1 + 2 * e)]]]])
    assert_close(backend, y, expected, dtype="float64", bound=64 * 2.0**-53 * 16)
    lse = np.log(np.array([[[1 + e, 1 + 2 * e]]]))
    assert_close(backend, saved.lse, lse, dtype="float64", bound=32 * 2.0**-53)


def test_a_sink_is_all_that_a_query_without_keys_sees(backend):
    place = Place(backend, "float64")
    q, k, v = draw(place, 18, B=1, H=2, K=1, T=2, S=2)
    sinks, first = place.array([0.5, -3.0]), place.ids([[2, 2]])
    y, saved = attention_fwd(q, k, v, first, sinks, start=0, scale=1.0)
    assert_close(backend, y, np.zeros((1, 2, 2, 6)), dtype="float64", bound=0)
    lse = np.array([[[0.5, 0.5], [-3.0, -3.0]]])
    assert_close(backend, saved.lse, lse, dtype="float64", bound=1e-15)
    dy = place.array(np.ones((1, 2, 2, 6)))
    *gradients, _, dsinks = attention_bwd(dy, saved)
    for gradient in (*gradients, dsinks):
        assert not np.any(to_numpy(backend, gradient))


@on_places(
    ("padded", "window", "cap", "has_sinks"),
    product((False, True), (None, 3), (None, 0.7), (False, True)),
    elsewhere=(True, 3, 0.7, True),
)
def test_caps_and_sinks_with_padding_and_windows(place, padded, window, cap, has_sinks):
    q, k, v = draw(place, 19, T=7, S=9)
    first = np.array([[4], [0]]) + np.zeros((2, 7), np.int64) if padded else None
    sinks = place.array([0.5, -1.0, 2.0, 0.0]) if has_sinks else None
    check(place, q, k, v, first, sinks, start=2, window=window, cap=cap, query_rows=3)


@pytest.mark.parametrize("island", ["float64", "float32", "float16", "bfloat16"])
def test_dtypes_under_every_island(numpy_backend, island):
    for dtype in ("float64", "float32", "float16", "bfloat16"):
        place = Place(numpy_backend, dtype)
        y, saved = attention_fwd(
            *draw(place, 15), start=0, scale=0.4, island=numpy_backend.dtypes[island]
        )
        assert_on(numpy_backend, y, dtype=dtype, shape=(2, 4, 5, 6))
        kept = Place(numpy_backend, island).wide
        assert_on(numpy_backend, saved.lse, dtype=kept, shape=(2, 4, 5))


def test_cache_may_be_narrower_than_the_queries(numpy_backend):
    place, narrow = Place(numpy_backend, "float32"), Place(numpy_backend, "float16")
    q, k, v = draw(place, 16)
    k, v = narrow.array(k), narrow.array(v)
    y, _ = attention_fwd(q, k, v, start=0, scale=0.4)
    wider, _ = attention_fwd(q, place.array(k), place.array(v), start=0, scale=0.4)
    assert_close(numpy_backend, y, to_numpy(numpy_backend, wider), dtype="float32", bound=0)


def test_softmax_island_makes_a_visible_difference(numpy_backend):
    # Over 1,024 equal scores a bfloat16 sum stalls at 256, and the mean of the values comes out four times too large.
    place = Place(numpy_backend, "bfloat16")
    q, k = place.array(np.zeros((1, 1, 1, 2))), place.array(np.zeros((1, 1, 1024, 2)))
    v = place.array(np.ones((1, 1, 1024, 2)))
    y, _ = attention_fwd(q, k, v, start=1023, scale=1.0)
    assert_close(numpy_backend, y, np.ones((1, 1, 1, 2)), dtype="bfloat16", bound=0)
    y, _ = attention_fwd(q, k, v, start=1023, scale=1.0, island=numpy_backend.dtypes["bfloat16"])
    assert float(y[0, 0, 0, 0]) > 2


def test_long_prompt_holds_a_chunk_of_scores_at_a_time(numpy_backend):
    H, T, D = 2, 4096, 8
    q, k, v = draw(Place(numpy_backend, "float32"), 17, B=1, H=H, K=1, T=T, S=T, D=D)
    tracemalloc.start()
    try:
        attention_fwd(q, k, v, start=0, scale=D**-0.5)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    all_scores = H * T * T * 4  # bytes
    assert peak < all_scores / 4


@pytest.mark.parametrize("island", ["bfloat16", "float16", "float8_e4m3fn"])
def test_the_backward_pass_has_the_forwards_probabilities_in_every_island(numpy_backend, island):
    # Three equal scores of 12, which every format holds. A log-sum-exp of 13.1 rounded to bfloat16 is 13.125, and
    # exp(12 - 13.125) is 3 % below 1/3; to float8_e4m3fn it is 13, and 10 % above.
    backend = emulate(numpy_backend, Policy(softmax=island))
    place = Place(backend, "float32")
    q, k, v = (place.array(np.full((1, 1, T, 4), x)) for T, x in ((1, 2.0), (3, 1.5), (3, 1.0)))
    y, saved = attention_fwd(q, k, v, start=2, scale=1.0, island=backend.dtypes[island])
    _, _, dv, *_ = attention_bwd(place.array(np.ones((1, 1, 1, 4))), saved)

    u = UNIT_ROUNDOFF["float32"]
    lse = 12.0 + math.log(
        3.0
    )  # rounded once; then a difference and an exponential of a number near -1.1
    np.testing.assert_allclose(to_numpy(backend, dv), 1.0 / 3.0, rtol=(lse + 8) * u, atol=0)
    assert np.all(np.abs(to_numpy(backend, y) - 1.0) <= 2.0**-3)  # three times 1/3, rounded
