"""Linear map: every matrix product that a model has parameters for.

    y = x @ weight^T + bias

The weight is stored as Hugging Face stores it, one row an output.

Gradient. With one row a position,

    dx      = dy @ weight
    dweight = dy^T @ x
    dbias   = sum of dy over the rows        a sum, not a mean: the loss has averaged already

Numerics. Products accumulate in the wide dtype whatever x and the weight are stored in, and y is rounded once.
Leading axes of x are flattened first: libraries are at their best, and least buggy, on a 2-D product.
"""

from typing import NamedTuple

from xplm.namespace import array_namespace
from xplm.precision import cast, wide_dtype
from xplm.typing import Array


class LinearSaved(NamedTuple):
    x: Array  # (..., C)
    weight: Array  # (N, C)
    bias: Array | None  # (N,)


def linear_fwd(x: Array, weight: Array, bias: Array | None = None) -> tuple[Array, LinearSaved]:
    """y = x @ weight^T + bias.   x (..., C); weight (N, C); bias (N,)  ->  y (..., N) x.dtype"""
    xp = array_namespace(x)
    wide = wide_dtype(x, xp)

    rows = xp.reshape(cast(x, wide), (-1, x.shape[-1]))
    y = rows @ cast(weight, wide).T
    if bias is not None:
        y = y + cast(bias, wide)

    y = xp.reshape(cast(y, x.dtype), (*x.shape[:-1], weight.shape[0]))
    return y, LinearSaved(x, weight, bias)


def linear_bwd(
    dy: Array, saved: LinearSaved, *, is_frozen: bool = False
) -> tuple[Array, Array | None, Array | None]:
    """dx (..., C) in x's dtype; dweight (N, C) and dbias (N,) wide, from dy (..., N).

    Where weight and bias are frozen, dx alone is computed.
    """
    x, weight, bias = saved
    xp = array_namespace(dy)
    wide = wide_dtype(dy, xp)
    dyw = xp.reshape(cast(dy, wide), (-1, dy.shape[-1]))

    # y = x @ weight^T + bias
    dx = cast(xp.reshape(dyw @ cast(weight, wide), x.shape), x.dtype)
    if is_frozen:
        return dx, None, None
    rows = xp.reshape(cast(x, wide), (-1, x.shape[-1]))
    dweight = dyw.T @ rows
    dbias = None if bias is None else xp.sum(dyw, axis=0)
    return dx, dweight, dbias
