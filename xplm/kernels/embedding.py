"""Embedding: the row of a table that belongs to each token id.

    y_t = weight[ids_t]

The same as a product with a one-hot row, without the product.
"""

from typing import NamedTuple

from xplm.namespace import array_namespace
from xplm.typing import Array


class EmbeddingSaved(NamedTuple):
    ids: Array  # (...), integer
    weight: Array  # (V, C)


def embedding_fwd(ids: Array, weight: Array) -> tuple[Array, EmbeddingSaved]:
    """y = weight[ids].   ids (...) integer; weight (V, C)  ->  y (..., C) weight.dtype"""
    xp = array_namespace(weight)

    y = xp.take(weight, xp.reshape(ids, (-1,)), axis=0)
    return xp.reshape(y, (*ids.shape, weight.shape[-1])), EmbeddingSaved(ids, weight)
