"""Embedding: the row of a table that belongs to each token id.

    y_t = weight[ids_t]

The same as a product with a one-hot row, without the product.

Gradient. Every position that holds id v adds its dy to row v:

    dweight_v = sum over t with ids_t = v of dy_t

The standard has no scatter-add, and an assignment would keep the last of repeated ids only. The sum is written as a
product with the one-hot rows of just those ids that occur; rows of ids that do not occur are zero.
"""

from typing import NamedTuple

from array_api_compat import device

from xplm.namespace import array_namespace
from xplm.precision import cast, wide_dtype
from xplm.typing import Array

IDS_PER_CHUNK = 256
"""Distinct ids whose one-hot rows are held at a time."""


class EmbeddingSaved(NamedTuple):
    ids: Array  # (...), integer
    weight: Array  # (V, C)


def embedding_fwd(ids: Array, weight: Array) -> tuple[Array, EmbeddingSaved]:
    """y = weight[ids].   ids (...) integer; weight (V, C)  ->  y (..., C) weight.dtype"""
    xp = array_namespace(weight)

    y = xp.take(weight, xp.reshape(ids, (-1,)), axis=0)
    return xp.reshape(y, (*ids.shape, weight.shape[-1])), EmbeddingSaved(ids, weight)


def embedding_bwd(dy: Array, saved: EmbeddingSaved) -> tuple[None, Array]:
    """No gradient of ids; dweight (V, C) wide, from dy (..., C)."""
    ids, weight = saved
    xp = array_namespace(dy)
    V, C = weight.shape
    ids = xp.reshape(ids, (-1,))
    dyw = xp.reshape(cast(dy, wide_dtype(dy, xp)), (-1, C))

    present = xp.sort(xp.unique_values(ids))  # (U,)
    sums = []
    for begin in range(0, present.shape[0], IDS_PER_CHUNK):
        end = min(begin + IDS_PER_CHUNK, present.shape[0])
        one_hot = present[begin:end, None] == ids[None, :]
        sums.append(cast(one_hot, dyw.dtype) @ dyw)
    rows = xp.concat(sums, axis=0)  # (U, C)

    # Row v of the table is row `place` of the sums where present[place] = v, and zero elsewhere.
    every = xp.arange(V, dtype=present.dtype, device=device(dy))
    place = xp.searchsorted(present, every)
    place = xp.where(place < present.shape[0], place, xp.zeros_like(place))
    occurs = xp.take(present, place, axis=0) == every
    dweight = xp.take(rows, place, axis=0)
    return None, xp.where(occurs[:, None], dweight, xp.zeros_like(dweight))
