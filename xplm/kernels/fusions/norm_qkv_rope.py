"""From a block's input to what attention reads: norm, three projections, rotation.

n    = rms_norm(x)
q, k = rope(n Wq^T), rope(n Wk^T)
v    = n Wv^T
"""

from xplm.kernels.linear import linear_fwd
from xplm.kernels.rms_norm import rms_norm_fwd
from xplm.kernels.rope import rope_fwd
from xplm.namespace import array_namespace
from xplm.typing import Array, DType


def norm_qkv_rope(
    x: Array,
    norm: Array,
    q_weight: Array,
    k_weight: Array,
    v_weight: Array,
    q_bias: Array | None,
    k_bias: Array | None,
    v_bias: Array | None,
    cos: Array,
    sin: Array,
    *,
    eps: float,
    wide: DType | None = None,
) -> tuple[Array, Array, Array]:
    """q (B, H, T, D); k, v (B, K, T, D).   x (B, T, C); norm (C,); weights (H D, C); cos, sin (B or 1, 1, T, D/2)"""
    xp = array_namespace(x)
    B, T, _ = x.shape
    D = 2 * cos.shape[-1]

    def heads(rows: Array) -> Array:
        return xp.permute_dims(xp.reshape(rows, (B, T, -1, D)), (0, 2, 1, 3))

    n, _ = rms_norm_fwd(x, norm, eps=eps, wide=wide)
    q, _ = rope_fwd(heads(linear_fwd(n, q_weight, q_bias)[0]), cos, sin)
    k, _ = rope_fwd(heads(linear_fwd(n, k_weight, k_bias)[0]), cos, sin)
    v = heads(linear_fwd(n, v_weight, v_bias)[0])
    return q, k, v
