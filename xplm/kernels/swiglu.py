"""SwiGLU: a linear branch gated by the SiLU of another.

    y = silu(gate) * up        silu(g) = g * sigmoid(g)

Source: Shazeer, "GLU Variants Improve Transformer", arXiv:2002.05202, eq. 6.

Gradient. With s = sigmoid(gate) and s' = s (1 - s),

    silu'(g) = s + g s (1 - s) = s * (1 + g * (1 - s))
    dgate    = dy * up * silu'(gate)
    dup      = dy * silu(gate)

Numerics. Runs in the wide dtype, rounded once. The exponential stops at exp(80), where the sigmoid has long rounded to
1, so that it cannot overflow.
"""

from typing import NamedTuple

from xplm.namespace import array_namespace
from xplm.precision import cast, wide_dtype
from xplm.typing import Array

SATURATED = 80.0


class SwigluSaved(NamedTuple):
    gate: Array  # (..., F)
    up: Array  # (..., F)


def swiglu_fwd(gate: Array, up: Array) -> tuple[Array, SwigluSaved]:
    """y = silu(gate) * up.   gate, up (..., F)  ->  y (..., F) gate.dtype"""
    xp = array_namespace(gate)
    wide = wide_dtype(gate, xp)

    g = cast(gate, wide)
    y = g * sigmoid(g) * cast(up, wide)
    return cast(y, gate.dtype), SwigluSaved(gate, up)


def swiglu_bwd(dy: Array, saved: SwigluSaved) -> tuple[Array, Array]:
    """dgate and dup (..., F) in gate's dtype, from dy (..., F)."""
    gate, up = saved
    wide = wide_dtype(gate, array_namespace(dy))
    g, dyw = cast(gate, wide), cast(dy, wide)
    s = sigmoid(g)

    # y = g s(g) * up
    dgate = dyw * cast(up, wide) * s * (1.0 + g * (1.0 - s))
    dup = dyw * g * s
    return cast(dgate, gate.dtype), cast(dup, up.dtype)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), as e / (1 + e) with e = exp(x)."""
    xp = array_namespace(x)
    e = xp.exp(xp.minimum(x, SATURATED))
    return e / (1.0 + e)
