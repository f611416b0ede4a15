"""Views of a cache: what `gather` moves, against one slot at a time."""

import numpy as np
import pytest

from tests.helpers import Place, pure, to_numpy
from xplm.views import KeyView, Rows, gather


def make_view(place, starts, *, K=2, capacity=9, D=3, Dv=3):
    rng = np.random.default_rng(60)
    B = len(starts)
    keys, values = (place.array(rng.standard_normal((B, K, capacity, n))) for n in (D, Dv))
    return KeyView(keys, values, Rows(place.ids(starts), tuple(starts)))


def gather_slot_by_slot(array, starts, T, first):
    """(B, K, S, D), S as in the longest row: each row's slots 0 .. start + T - 1 at the end, nothing before."""
    B, K, _, D = array.shape
    S = max(starts) + T
    moved = np.zeros((B, K, S, D))
    for b, start in enumerate(starts):
        for slot in range(start + T):
            moved[b, :, first[b] + slot] = array[b, :, slot]
    return moved


@pytest.mark.parametrize(
    ("starts", "T", "Dv"),
    [
        pytest.param([0, 4, 2], 1, 3, id="one query", marks=pytest.mark.nightly_on("jax")),
        pytest.param([5, 0], 3, 4, id="values of another width"),
        pytest.param([1, 8, 8, 3], 1, 2, id="full", marks=pytest.mark.nightly_on("jax")),
    ],
)
def test_rows_end_in_the_same_slot(backend, starts, T, Dv):
    place = Place(backend, "float64")
    view = make_view(place, starts, Dv=Dv)
    k, v, first, start = pure(
        backend, lambda keys, values: gather(view._replace(keys=keys, values=values), T), *view[:2]
    )
    S = max(starts) + T
    assert start == max(starts)
    shift = [max(starts) - s for s in starts]
    assert backend.to_host(first).tolist() == [[n] * T for n in shift]

    visible = np.arange(S) >= np.array(shift)[:, None, None]  # (B, 1, S)
    for array, whole in ((k, view.keys), (v, view.values)):
        expected = gather_slot_by_slot(to_numpy(backend, whole), starts, T, shift)
        found = np.where(visible[..., None], to_numpy(backend, array), 0.0)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("T", [1, 3])
def test_rows_that_start_together_are_slices(numpy_backend, T):
    view = make_view(Place(numpy_backend, "float32"), [4, 4])
    k, v, first, start = gather(view, T)
    assert (first, start) == (None, 4)
    for array, whole in ((k, view.keys), (v, view.values)):
        np.testing.assert_array_equal(array, whole[:, :, : 4 + T])
        assert np.shares_memory(array, whole)


def test_slots_after_a_rows_last_are_not_moved(numpy_backend):
    """They may hold anything, for example NaN that an earlier pass left there."""
    view = make_view(Place(numpy_backend, "float64"), [0, 5])
    keys = np.array(view.keys)
    keys[0, :, 2:], keys[1, :, 7:] = np.nan, np.nan
    k, _, _, _ = gather(view._replace(keys=keys), 2)
    assert np.isfinite(k).all()
