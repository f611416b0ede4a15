"""SwiGLU of clamped branches, the one of gpt-oss.

    y = (u + 1) * g * sigmoid(alpha g)        g = min(gate, limit),  u = up within +-limit

Source: OpenAI, "gpt-oss-120b & gpt-oss-20b model card", arXiv:2508.10925, section 2.2.

Gradient. With s = sigmoid(alpha g), and 0 for a branch that is clamped,

    dgate = dy * (u + 1) * s * (1 + alpha g (1 - s))      where gate <= limit
    dup   = dy * g * s                                    where |up| <= limit

Numerics. Runs in the wide dtype, rounded once.
"""

from typing import NamedTuple

from xplm.kernels.swiglu import sigmoid
from xplm.namespace import array_namespace
from xplm.precision import cast, wide_dtype
from xplm.typing import Array


class ClampedSwigluSaved(NamedTuple):
    gate: Array  # (..., F)
    up: Array  # (..., F)
    alpha: float
    limit: float


def clamped_swiglu_fwd(
    gate: Array, up: Array, *, alpha: float, limit: float
) -> tuple[Array, ClampedSwigluSaved]:
    """y = (u + 1) g sigmoid(alpha g), clamped.   gate, up (..., F)  ->  y (..., F) gate.dtype"""
    g, u = _clamp(gate, up, limit)
    y = (u + 1.0) * g * sigmoid(alpha * g)
    return cast(y, gate.dtype), ClampedSwigluSaved(gate, up, alpha, limit)


def clamped_swiglu_bwd(dy: Array, saved: ClampedSwigluSaved) -> tuple[Array, Array]:
    """dgate and dup (..., F) in gate's dtype, from dy (..., F)."""
    gate, up, alpha, limit = saved
    xp = array_namespace(dy)
    g, u = _clamp(gate, up, limit)
    dyw = cast(dy, g.dtype)
    s, nothing = sigmoid(alpha * g), xp.zeros_like(g)

    # y = (u + 1) g s(alpha g),  g = min(gate, limit),  u = up within +-limit
    dgate = dyw * (u + 1.0) * s * (1.0 + alpha * g * (1.0 - s))
    dup = dyw * g * s
    dgate = xp.where(cast(gate, g.dtype) <= limit, dgate, nothing)
    dup = xp.where(xp.abs(cast(up, g.dtype)) <= limit, dup, nothing)
    return cast(dgate, gate.dtype), cast(dup, up.dtype)


def _clamp(gate: Array, up: Array, limit: float) -> tuple[Array, Array]:
    """min(gate, limit), and up within +-limit, wide."""
    xp = array_namespace(gate)
    wide = wide_dtype(gate, xp)
    return xp.minimum(cast(gate, wide), limit), xp.clip(cast(up, wide), -limit, limit)
