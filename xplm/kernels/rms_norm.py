"""Root-mean-square normalisation over the last axis.

    rstd = 1 / sqrt(mean(x^2) + eps)          one number a row
    y    = (x * rstd) * weight

Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", arXiv:1910.07467, eq. 4.

Gradient. With n = x * rstd, dn = dy * weight and C the length of a row,

    d rstd / d x_j = -rstd^3 x_j / C
    dx_j           = rstd * dn_j - rstd^3 x_j / C * sum_i(dn_i x_i)
                   = rstd * (dn_j - n_j * mean(dn * n))

so a row of dx is dn with its component along n taken out, and rescaled. dweight sums dy * n over the rows.

Numerics. Statistics and the normalised row are computed in the dtype `island`; the row is rounded to x's dtype
before it is scaled, in the order of the Llama reference. A weight may also have the trailing axes of x, (..., H, C):
rows of its own for each head. n is not saved: it costs one product to rebuild, and a whole
activation to keep.
"""

from typing import NamedTuple

from xplm.namespace import array_namespace
from xplm.precision import cast, wide_dtype
from xplm.typing import Array, DType


class RMSNormSaved(NamedTuple):
    x: Array  # (..., C), the caller's array
    weight: Array  # (C,), or x's trailing axes
    rstd: Array  # (..., 1), island


def rms_norm_fwd(
    x: Array, weight: Array, *, eps: float, island: DType | None = None
) -> tuple[Array, RMSNormSaved]:
    """y = x / rms(x) * weight.   x (..., C) any float; weight (C,) or (H, C)  ->  y (..., C) x.dtype"""
    xp = array_namespace(x)
    island = island or wide_dtype(x, xp)

    xw = cast(x, island)
    mean_square = xp.sum(xw * xw, axis=-1, keepdims=True) / x.shape[-1]
    rstd = cast(1.0 / xp.sqrt(mean_square + eps), island)

    n = cast(xw * rstd, x.dtype)
    y = cast(n * cast(weight, x.dtype), x.dtype)
    return y, RMSNormSaved(x, weight, rstd)


def rms_norm_bwd(dy: Array, saved: RMSNormSaved) -> tuple[Array, Array]:
    """dx (..., C) in x's dtype; dweight wide, weight's shape, from dy (..., C)."""
    x, weight, rstd = saved
    xp = array_namespace(dy)
    wide = wide_dtype(rstd, xp)
    s = cast(rstd, wide)
    n = cast(x, wide) * s
    dyw = cast(dy, wide)

    # y = n * weight
    dweight = xp.sum(xp.reshape(dyw * n, (-1, *weight.shape)), axis=0)
    dn = dyw * cast(weight, wide)

    # n = x * rstd(x)
    dx = s * (dn - n * xp.mean(dn * n, axis=-1, keepdims=True))
    return cast(dx, x.dtype), dweight
