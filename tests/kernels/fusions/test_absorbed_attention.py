"""Attention over shared latents: what queries get that attend to the keys and values made of them."""

from itertools import product

import numpy as np
import pytest
from xplm_numpy.kernels import FUSED

from tests import naive
from tests.helpers import Place, assert_on, pure, rounding_bound, to_numpy
from tests.kernels.fusions.bounds import WIDE, assert_within, attend_rows, draw, rounded, stored
from tests.places import on_places
from xplm.kernels.fusions import FUSIONS
from xplm.kernels.fusions.absorbed_attention import absorbed_attention
from xplm.numerics.parity.bounds import Ball, exact
from xplm.precision import HOST_DTYPES
from xplm.views import LatentView, Rows

SCALE = 0.3
H, N, P, R, DV = 3, 5, 4, 7, 6

STARTS = {"empty": [0, 0], "even": [6, 6], "ragged": [3, 9, 0], "long": [300, 1]}


def make_arrays(starts, T, dtypes=("float64", "float64")):
    """q, the weight, and a cache's latents with a few slots to spare, on the host."""
    rng = np.random.default_rng(62)
    B, capacity = len(starts), max(starts) + T + 3
    q = draw(rng, dtypes[0], B, H, T, N + P)
    weight = draw(rng, dtypes[1], H * (N + DV), R, scale=R**-0.5)
    return q, weight, draw(rng, dtypes[1], B, 1, capacity, R + P)


def make_view(latents, starts, on_device=np.asarray):
    return LatentView(latents, Rows(on_device(np.array(starts)), tuple(starts)))


def naive_rows(q, weight, latents, starts):
    """Every head by itself, its keys and values made of the latents."""
    T = q.shape[2]
    y = np.zeros((*q.shape[:3], DV))
    heads = weight.reshape(H, N + DV, R)
    for b, head in np.ndindex(len(starts), H):
        c = latents[b, 0, : starts[b] + T, :R]
        k = np.concatenate([c @ heads[head, :N].T, latents[b, 0, : starts[b] + T, R:]], axis=-1)
        v = c @ heads[head, N:].T
        row = q[b : b + 1, head : head + 1]
        y[b, head] = naive.attention(
            row, k[None, None], v[None, None], start=starts[b], scale=SCALE
        )[0]
    return y


@on_places(
    ("starts", "T"),
    [*product(["even", "ragged"], (1, 2, 6)), ("empty", 5)],
    elsewhere=("ragged", 2),
)
def test_equals_heads_with_keys_and_values_of_their_own(place, starts, T):
    starts = STARTS[starts]
    q, weight, latents = (place.array(a) for a in make_arrays(starts, T))

    def attend(q, weight, latents):
        return absorbed_attention(q, make_view(latents, starts, place.ids), weight, scale=SCALE)

    y = pure(place.backend, attend, q, weight, latents)
    assert_on(place.backend, y, dtype=place.dtype, shape=(*q.shape[:3], DV))
    qh, wh, lh = (to_numpy(place.backend, a) for a in (q, weight, latents))
    expected = naive_rows(qh, wh, lh, starts)

    # q1 A is rounded, and moves a score by as much; so is the sum of latents, which moves y.
    norm = np.linalg.norm
    rows = norm(wh.reshape(H, N + DV, R), axis=(1, 2)).max()
    score = SCALE * norm(qh, axis=-1).max() * norm(lh, axis=-1).max() * max(rows, 1.0)
    terms = max(starts) + T + (R + P + N + 4) * 2 * score + 8
    size = norm(lh[..., :R], axis=-1).max() * rows
    roundings = 2 + 2 * score
    bound = rounding_bound(place.dtype, terms=terms, magnitude=size, roundings=roundings)
    assert np.max(np.abs(to_numpy(place.backend, y) - expected) - bound) <= 0


def balls(q, weight, latents, starts):
    """What each head may get, as the ops may round."""
    T = q.shape[2]
    A, B = (exact(w) for w in np.split(weight.reshape(H, N + DV, R), [N], axis=1))
    given = stored(q)
    absorbed = WIDE.matmul(given.ball.map(lambda a: a[..., :N]), A)
    absorbed = rounded(absorbed, q.dtype).ball
    rest = given.ball.map(lambda a: a[..., N:])
    joined = Ball(*[np.concatenate(pair, axis=-1) for pair in zip(absorbed, rest, strict=True)])
    seen = [exact(latents[b : b + 1, :, : start + T]) for b, start in enumerate(starts)]
    sums = attend_rows(given._replace(ball=joined), seen, seen, starts, scale=SCALE)
    sums = sums.ball.map(lambda a: a[..., :R])
    return rounded(WIDE.matmul(sums, B.map(lambda a: np.swapaxes(a, 1, 2))), q.dtype)


@pytest.mark.parametrize("T", [1, 2, 5])
@pytest.mark.parametrize("starts", STARTS)
def test_is_within_what_its_ops_may_be_off_by(fusions, dtypes, starts, T):
    starts = STARTS[starts]
    q, weight, latents = make_arrays(starts, T, dtypes)
    y = fusions["absorbed_attention"](q, make_view(latents, starts), weight, scale=SCALE)
    assert_within(y, balls(q, weight, latents, starts))


def test_an_island_in_float64_is_the_compositions(dtypes):
    starts = STARTS["ragged"]
    q, weight, latents = make_arrays(starts, 2, dtypes)
    view, island = make_view(latents, starts), np.dtype(np.float64)
    y, expected = (
        table["absorbed_attention"](q, view, weight, scale=SCALE, island=island)
        for table in (FUSED, FUSIONS)
    )
    np.testing.assert_array_equal(y, expected)


def test_slots_after_a_rows_last_are_not_read(fusions, dtypes):
    starts = STARTS["ragged"]
    q, weight, latents = make_arrays(starts, 2, dtypes)
    odd = latents.copy()
    for b, start in enumerate(starts):
        odd[b, :, start + 2 :] = np.array(np.nan, HOST_DTYPES[dtypes[1]])
    y, other = (
        fusions["absorbed_attention"](q, make_view(each, starts), weight, scale=SCALE)
        for each in (latents, odd)
    )
    np.testing.assert_array_equal(y, other)


def test_threads_and_runs_change_no_bit(fusions, on_threads):
    starts = STARTS["long"]
    q, weight, latents = make_arrays(starts, 1, ("float32", "float32"))
    view = make_view(latents, starts)
    attend = fusions["absorbed_attention"]
    once, *others = (on_threads(n, attend, q, view, weight, scale=SCALE) for n in (1, 2, 2))
    for other in others:
        np.testing.assert_array_equal(once, other)


def test_starts_stay_on_the_device(device1):
    """On array-api-strict's second device a read by the host raises."""
    place = Place(device1, "float32")
    q, weight, latents = (place.array(a) for a in make_arrays(STARTS["ragged"], 2))
    view = make_view(latents, STARTS["ragged"], place.ids)
    y = absorbed_attention(q, view, weight, scale=SCALE)
    assert_on(device1, y, dtype="float32", shape=(3, H, 2, DV))
