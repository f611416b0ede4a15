from itertools import product

import numpy as np
import pytest
from xplm_numpy.kernels import FUSED

from tests import naive
from tests.helpers import Place, assert_on, pure, rounding_bound, to_numpy
from tests.kernels.fusions.bounds import assert_within, attend_rows, draw, stored
from tests.places import on_places
from xplm.kernels.fusions import FUSIONS
from xplm.kernels.fusions.cached_attention import cached_attention
from xplm.numerics.parity.bounds import exact
from xplm.precision import HOST_DTYPES
from xplm.views import KeyView, Rows

SCALE = 0.4

STARTS = {
    "empty": [0, 0],
    "even": [6, 6],
    "ragged": [3, 9, 0],
    "one row": [8],
    "long": [300, 1],
}


def make_arrays(starts, T, *, H=4, K=2, D=6, Dv=6, dtypes=("float64", "float64")):
    """q, and keys and values of a cache with a few slots to spare, on the host."""
    rng = np.random.default_rng(61)
    B, capacity = len(starts), max(starts) + T + 3
    q = draw(rng, dtypes[0], B, H, T, D)
    return q, *[draw(rng, dtypes[1], B, K, capacity, width) for width in (D, Dv)]


def make_view(keys, values, starts, on_device=np.asarray):
    return KeyView(keys, values, Rows(on_device(np.array(starts)), tuple(starts)))


def naive_rows(q, keys, values, starts, sinks=None, **options):
    """One row and one query at a time."""
    found = []
    for b, start in enumerate(starts):
        row, end = slice(b, b + 1), start + q.shape[2]
        seen = keys[row, :, :end], values[row, :, :end]
        y, _ = naive.attention(q[row], *seen, None, sinks, start=start, scale=SCALE, **options)
        found.append(y)
    return np.concatenate(found)


@on_places(
    ("starts", "T", "window", "Dv"),
    [
        *product(["even", "ragged"], (1, 2, 6), (None, 4), (6, 4)),
        ("empty", 5, None, 6),
        ("one row", 3, 2, 9),
    ],
    elsewhere=("ragged", 2, 4, 4),
)
def test_equals_one_query_at_a_time(place, starts, T, window, Dv):
    starts = STARTS[starts]
    q, keys, values = (place.array(a) for a in make_arrays(starts, T, Dv=Dv))

    def attend(q, keys, values):
        view = make_view(keys, values, starts, place.ids)
        return cached_attention(q, view, scale=SCALE, window=window)

    y = pure(place.backend, attend, q, keys, values)
    assert_on(place.backend, y, dtype=place.dtype, shape=(*q.shape[:3], Dv))
    qh, kh, vh = (to_numpy(place.backend, a) for a in (q, keys, values))
    expected = naive_rows(qh, kh, vh, starts, window=window)

    # As in tests/kernels/test_attention.py.
    D, S = q.shape[-1], max(starts) + T
    score = SCALE * np.linalg.norm(qh, axis=-1).max() * np.linalg.norm(kh, axis=-1).max()
    terms = S + (D + 4) * 2 * score + 8
    bound = rounding_bound(place.dtype, terms=terms, magnitude=abs(vh).max())
    assert np.max(np.abs(to_numpy(place.backend, y) - expected) - bound) <= 0


@pytest.mark.parametrize("T", range(1, 7))
@pytest.mark.parametrize("starts", STARTS)
def test_is_within_what_its_ops_may_be_off_by(fusions, dtypes, starts, T):
    starts = STARTS[starts]
    for window, Dv in product((None, 1, 4, 100), (6, 4, 9)):
        q, keys, values = make_arrays(starts, T, Dv=Dv, dtypes=dtypes)
        view = make_view(keys, values, starts)
        y = fusions["cached_attention"](q, view, scale=SCALE, window=window)
        seen = [
            [exact(array[b : b + 1, :, : start + T]) for b, start in enumerate(starts)]
            for array in (keys, values)
        ]
        assert_within(y, attend_rows(stored(q), *seen, starts, scale=SCALE, window=window))


@pytest.mark.parametrize("T", [1, 3, 6])
@pytest.mark.parametrize("starts", STARTS)
def test_caps_and_sinks_are_within_what_their_ops_may_be_off_by(fusions, dtypes, starts, T):
    starts = STARTS[starts]
    q, keys, values = make_arrays(starts, T, dtypes=dtypes)
    sinks = draw(np.random.default_rng(62), dtypes[0], 4)
    seen = [
        [exact(array[b : b + 1, :, : start + T]) for b, start in enumerate(starts)]
        for array in (keys, values)
    ]
    view = make_view(keys, values, starts)
    for window, cap, own in ((None, 1.5, None), (4, None, sinks), (100, 0.7, sinks)):
        options = {"scale": SCALE, "window": window, "cap": cap}
        y = fusions["cached_attention"](q, view, own, **options)
        assert_within(y, attend_rows(stored(q), *seen, starts, sinks=own, **options))


@pytest.mark.parametrize("T", [1, 5])
@pytest.mark.parametrize("starts", ["even", "ragged"])
def test_an_island_in_float64_is_the_compositions(dtypes, starts, T):
    q, keys, values = make_arrays(STARTS[starts], T, dtypes=dtypes)
    view, island = make_view(keys, values, STARTS[starts]), np.dtype(np.float64)
    y, expected = (
        table["cached_attention"](q, view, scale=SCALE, island=island) for table in (FUSED, FUSIONS)
    )
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("T", [1, 5])
@pytest.mark.parametrize("starts", ["even", "ragged"])
def test_slots_after_a_rows_last_are_not_read(fusions, dtypes, starts, T):
    starts = STARTS[starts]
    q, *pair = make_arrays(starts, T, dtypes=dtypes)
    odd = [array.copy() for array in pair]
    for array in odd:
        for b, start in enumerate(starts):
            array[b, :, start + T :] = np.array(np.nan, HOST_DTYPES[dtypes[1]])
    y, other = (
        fusions["cached_attention"](q, make_view(*each, starts), scale=SCALE)
        for each in (pair, odd)
    )
    np.testing.assert_array_equal(y, other)


@pytest.mark.parametrize("T", [1, 4, 5])
def test_rows_of_other_lengths_change_a_row_by_the_order_of_its_sums_at_most(fusions, T):
    starts = STARTS["ragged"]
    q, keys, values = make_arrays(starts, T, dtypes=("float32", "float32"))
    together = fusions["cached_attention"](q, make_view(keys, values, starts), scale=SCALE)
    bound = rounding_bound("float32", terms=60, magnitude=np.abs(values).max())
    for b, start in enumerate(starts):
        row = slice(b, b + 1)
        view = make_view(keys[row], values[row], [start])
        alone = fusions["cached_attention"](q[row], view, scale=SCALE)
        assert np.max(np.abs(together[row] - alone) - bound) <= 0


@pytest.mark.parametrize("T", [1, 3])
def test_threads_and_runs_change_no_bit(fusions, on_threads, T):
    starts = STARTS["long"]
    arrays = make_arrays(starts, T, dtypes=("float32", "float32"))
    view = make_view(*arrays[1:], starts)
    attend = fusions["cached_attention"]
    once, *others = (on_threads(n, attend, arrays[0], view, scale=SCALE) for n in (1, 2, 2))
    for other in others:
        np.testing.assert_array_equal(once, other)


def test_starts_stay_on_the_device(device1):
    """On array-api-strict's second device a read by the host raises."""
    place = Place(device1, "float32")
    arrays = [place.array(a) for a in make_arrays(STARTS["ragged"], 2)]
    view = make_view(*arrays[1:], STARTS["ragged"], place.ids)
    y = cached_attention(arrays[0], view, scale=SCALE)
    assert_on(device1, y, dtype="float32", shape=(3, 4, 2, 6))
