"""Layer normalisation over the last axis.

    mean = mean(x)                            one number a row
    rstd = 1 / sqrt(mean((x - mean)^2) + eps) one number a row
    y    = (x - mean) * rstd * weight + bias

Source: Ba, Kiros and Hinton, "Layer Normalization", arXiv:1607.06450, eq. 4, with the biased variance and with eps
under the root as in every implementation since.

Gradient. With n = (x - mean) * rstd and dn = dy * weight, the mean and the variance each take one direction out of dn:

    d mean / d x_j = 1 / C
    d rstd / d x_j = -rstd^2 n_j / C          the variance's own dependence on the mean sums to zero
    dx_j           = rstd * (dn_j - mean(dn) - n_j * mean(dn * n))

dweight sums dy * n over the rows, dbias sums dy.

Numerics. Everything runs in the dtype `island`, and y is rounded once. The variance is taken from the centred
row: mean(x^2) - mean(x)^2 would cancel where the mean is large.
"""

from typing import NamedTuple

from xplm.namespace import array_namespace
from xplm.precision import cast, wide_dtype
from xplm.typing import Array, DType


class LayerNormSaved(NamedTuple):
    x: Array  # (..., C), the caller's array
    weight: Array  # (C,), or x's trailing axes
    bias: Array  # likewise
    mean: Array  # (..., 1), island
    rstd: Array  # (..., 1), island


def layer_norm_fwd(
    x: Array, weight: Array, bias: Array, *, eps: float, island: DType | None = None
) -> tuple[Array, LayerNormSaved]:
    """y = (x - mean) * rstd * weight + bias.   x (..., C); weight, bias (C,) or (H, C)  ->  y (..., C) x.dtype"""
    xp = array_namespace(x)
    island = island or wide_dtype(x, xp)

    xw = cast(x, island)
    mean = cast(xp.mean(xw, axis=-1, keepdims=True), island)
    centred = xw - mean
    variance = xp.mean(centred * centred, axis=-1, keepdims=True)
    rstd = cast(1.0 / xp.sqrt(variance + eps), island)

    n = centred * rstd
    y = n * cast(weight, island) + cast(bias, island)
    return cast(y, x.dtype), LayerNormSaved(x, weight, bias, mean, rstd)


def layer_norm_bwd(dy: Array, saved: LayerNormSaved) -> tuple[Array, Array, Array]:
    """dx (..., C) in x's dtype; dweight and dbias wide, from dy (..., C)."""
    x, weight, bias, mean, rstd = saved
    xp = array_namespace(dy)
    wide = wide_dtype(rstd, xp)
    s = cast(rstd, wide)
    n = (cast(x, wide) - cast(mean, wide)) * s
    dyw = cast(dy, wide)

    # y = n * weight + bias
    dweight = xp.sum(xp.reshape(dyw * n, (-1, *weight.shape)), axis=0)
    dbias = xp.sum(xp.reshape(dyw, (-1, *bias.shape)), axis=0)
    dn = dyw * cast(weight, wide)

    # n = (x - mean(x)) * rstd(x)
    dx = s * (
        dn - xp.mean(dn, axis=-1, keepdims=True) - n * xp.mean(dn * n, axis=-1, keepdims=True)
    )
    return cast(dx, x.dtype), dweight, dbias
