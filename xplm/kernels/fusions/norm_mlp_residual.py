"""A block's gated feed-forward half, with its norm and its residual.

n = rms_norm(x)
y = residual + (silu(n Wgate^T) * n Wup^T) Wdown^T
"""

from xplm.kernels.linear import linear_fwd
from xplm.kernels.rms_norm import rms_norm_fwd
from xplm.kernels.swiglu import swiglu_fwd
from xplm.typing import Array, DType


def norm_mlp_residual(
    x: Array,
    residual: Array,
    norm: Array,
    gate_weight: Array,
    up_weight: Array,
    down_weight: Array,
    gate_bias: Array | None,
    up_bias: Array | None,
    down_bias: Array | None,
    *,
    eps: float,
    island: DType | None = None,
) -> Array:
    """x, residual (B, T, C); norm (C,); gate_weight, up_weight (F, C); down_weight (C, F)  ->  y (B, T, C) x.dtype

    The residual is x in a sequential block; in a parallel one x with the output of attention.
    """
    n, _ = rms_norm_fwd(x, norm, eps=eps, island=island)
    gate, _ = linear_fwd(n, gate_weight, gate_bias)
    up, _ = linear_fwd(n, up_weight, up_bias)
    hidden, _ = swiglu_fwd(gate, up)
    return residual + linear_fwd(hidden, down_weight, down_bias)[0]
