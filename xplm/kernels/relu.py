"""ReLU: what is below zero becomes zero.

    y = max(x, 0)

Source: Nair and Hinton, "Rectified Linear Units Improve Restricted Boltzmann Machines", ICML 2010.

Gradient. y is x above zero, and 0 below. At zero it has none; 0 is taken, as everywhere.

    dx = dy where x > 0, else 0

Numerics. Runs in the wide dtype; nothing is rounded.
"""

from typing import NamedTuple

from xplm.namespace import array_namespace
from xplm.precision import cast, wide_dtype
from xplm.typing import Array


class ReluSaved(NamedTuple):
    x: Array  # (..., F)


def relu_fwd(x: Array) -> tuple[Array, ReluSaved]:
    """y = max(x, 0).   x (..., F)  ->  y (..., F) x.dtype"""
    xp = array_namespace(x)
    return cast(xp.maximum(cast(x, wide_dtype(x, xp)), 0.0), x.dtype), ReluSaved(x)


def relu_bwd(dy: Array, saved: ReluSaved) -> tuple[Array]:
    """dx (..., F) in x's dtype, from dy (..., F)."""
    (x,) = saved
    xp = array_namespace(dy)
    wide = wide_dtype(x, xp)
    dyw = cast(dy, wide)

    # y = max(x, 0)
    dx = xp.where(cast(x, wide) > 0.0, dyw, xp.zeros_like(dyw))
    return (cast(dx, x.dtype),)
