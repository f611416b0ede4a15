"""A branch gated by the sigmoid of another.

    y = sigmoid(gate) * x

The gate may have one number for a whole row of x.

Source: Qwen team, "Qwen2 technical report", arXiv:2407.10671, section 2.2.2, for an expert that all tokens share.

Gradient. With s = sigmoid(gate),

    dgate = s (1 - s) * dy x          summed over the row where the gate has one number for it
    dx    = dy * s

Numerics. Runs in the wide dtype, rounded once.
"""

from typing import NamedTuple

from xplm.kernels.swiglu import sigmoid
from xplm.namespace import array_namespace
from xplm.precision import cast, wide_dtype
from xplm.typing import Array


class SigmoidGateSaved(NamedTuple):
    gate: Array  # (..., F) or (..., 1)
    x: Array  # (..., F)


def sigmoid_gate_fwd(gate: Array, x: Array) -> tuple[Array, SigmoidGateSaved]:
    """y = sigmoid(gate) * x.   gate (..., F) or (..., 1); x (..., F)  ->  y (..., F) x.dtype"""
    wide = wide_dtype(x, array_namespace(x))

    y = sigmoid(cast(gate, wide)) * cast(x, wide)
    return cast(y, x.dtype), SigmoidGateSaved(gate, x)


def sigmoid_gate_bwd(dy: Array, saved: SigmoidGateSaved) -> tuple[Array, Array]:
    """dgate (..., F) or (..., 1) and dx (..., F), each in its dtype, from dy (..., F)."""
    gate, x = saved
    xp = array_namespace(dy)
    wide = wide_dtype(x, xp)
    dyw, s = cast(dy, wide), sigmoid(cast(gate, wide))

    # y = s(gate) * x
    dx = dyw * s
    product = dyw * cast(x, wide)
    if gate.shape[-1] != x.shape[-1]:
        product = xp.sum(product, axis=-1, keepdims=True)
    return cast(s * (1.0 - s) * product, gate.dtype), cast(dx, x.dtype)
