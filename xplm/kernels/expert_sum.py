"""The sum of what a token's experts make of it, each times its weight.

    y_n = sum over j of weights_nj rows_m,   m = places_nj

Every row belongs to one token: places are a permutation of the rows' numbers. Without weights all are 1; that is the
gradient of copying a token to its experts.

Gradient. Row m is token n's j-th, and

    drows_m     = weights_nj dy_n
    dweights_nj = sum over c of dy_nc rows_mc

Source: Jiang et al., "Mixtral of Experts", arXiv:2401.04088, section 2.1.

Numerics. Runs in the wide dtype, rounded once. No scatter-add: each row is read by its token, and each token's gradient
by its rows.
"""

from typing import NamedTuple

from xplm.namespace import array_namespace
from xplm.precision import cast, wide_dtype
from xplm.typing import Array


class ExpertSumSaved(NamedTuple):
    rows: Array  # (N k, C)
    places: Array  # (N, k), integer
    weights: Array | None  # (N, k)


def expert_sum_fwd(
    rows: Array, places: Array, weights: Array | None = None
) -> tuple[Array, ExpertSumSaved]:
    """y_n = sum_j weights_nj rows[places_nj].   rows (N k, C); places, weights (N, k)  ->  y (N, C) rows.dtype"""
    xp = array_namespace(rows)

    terms = _gather(rows, places)  # (N, k, C)
    if weights is not None:
        terms = terms * cast(weights, terms.dtype)[:, :, None]
    return cast(xp.sum(terms, axis=1), rows.dtype), ExpertSumSaved(rows, places, weights)


def expert_sum_bwd(dy: Array, saved: ExpertSumSaved) -> tuple[Array, None, Array | None]:
    """drows (N k, C) in their dtype, no gradient of places, dweights (N, k) in theirs, from dy (N, C)."""
    rows, places, weights = saved
    xp = array_namespace(dy)
    k = places.shape[1]
    dyw = cast(dy, wide_dtype(dy, xp))

    # y_n = sum_j weights_nj rows[places_nj]: row m is the `owner`-th of all (token, choice)
    owner = xp.argsort(xp.reshape(places, (-1,)))
    drows = xp.take(dyw, owner // k, axis=0)
    if weights is None:
        return cast(drows, rows.dtype), None, None
    w = xp.take(xp.reshape(cast(weights, dyw.dtype), (-1,)), owner, axis=0)
    dweights = xp.sum(_gather(rows, places) * dyw[:, None, :], axis=2)
    return cast(drows * w[:, None], rows.dtype), None, cast(dweights, weights.dtype)


def _gather(rows: Array, places: Array) -> Array:
    """Each token's rows, wide.   (N k, C), (N, k)  ->  (N, k, C)"""
    xp = array_namespace(rows)
    found = xp.take(rows, xp.reshape(places, (-1,)), axis=0)
    return xp.reshape(cast(found, wide_dtype(rows, xp)), (*places.shape, rows.shape[1]))
