"""Squared ReLU.

    y = max(x, 0)^2

Source: So et al., "Primer: Searching for Efficient Transformers for Language Modeling", arXiv:2109.08668, section 4.

Gradient. With r = max(x, 0), dr/dx is 1 above zero and 0 below, where r is 0 too:

    dx = dy * 2 r

Numerics. Runs in the wide dtype, rounded once.
"""

from typing import NamedTuple

from xplm.namespace import array_namespace
from xplm.precision import cast, wide_dtype
from xplm.typing import Array


class Relu2Saved(NamedTuple):
    x: Array  # (..., F)


def relu2_fwd(x: Array) -> tuple[Array, Relu2Saved]:
    """y = max(x, 0)^2.   x (..., F)  ->  y (..., F) x.dtype"""
    xp = array_namespace(x)
    r = xp.maximum(cast(x, wide_dtype(x, xp)), 0.0)

    return cast(r * r, x.dtype), Relu2Saved(x)


def relu2_bwd(dy: Array, saved: Relu2Saved) -> tuple[Array]:
    """dx (..., F) in x's dtype, from dy (..., F)."""
    (x,) = saved
    xp = array_namespace(dy)
    wide = wide_dtype(x, xp)
    r = xp.maximum(cast(x, wide), 0.0)

    # y = r^2
    return (cast(cast(dy, wide) * (2.0 * r), x.dtype),)
