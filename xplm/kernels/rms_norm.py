"""Root-mean-square normalisation over the last axis.

    rstd = 1 / sqrt(mean(x^2) + eps)          one number a row
    y    = (x * rstd) * weight

Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", arXiv:1910.07467, eq. 4.

Numerics. Statistics and the normalised row are computed in the island dtype `wide`; the row is rounded to x's dtype
before it is scaled, in the order of the Llama reference.
"""

from typing import NamedTuple

from xplm.namespace import array_namespace
from xplm.precision import cast, wide_dtype
from xplm.typing import Array, DType


class RMSNormSaved(NamedTuple):
    x: Array  # (..., C), the caller's array
    weight: Array  # (C,)
    rstd: Array  # (..., 1), wide


def rms_norm_fwd(
    x: Array, weight: Array, *, eps: float, wide: DType | None = None
) -> tuple[Array, RMSNormSaved]:
    """y = x / rms(x) * weight.   x (..., C) any float; weight (C,)  ->  y (..., C) x.dtype"""
    xp = array_namespace(x)
    wide = wide or wide_dtype(x, xp)

    xw = cast(x, wide)
    mean_square = xp.sum(xw * xw, axis=-1, keepdims=True) / x.shape[-1]
    rstd = cast(1.0 / xp.sqrt(mean_square + eps), wide)

    n = cast(xw * rstd, x.dtype)
    y = cast(n * cast(weight, x.dtype), x.dtype)
    return y, RMSNormSaved(x, weight, rstd)
