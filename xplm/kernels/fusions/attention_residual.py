"""The rest of a block's attention half: attend, project back, add what went past.

y = x + attention(q, k, v) Wo^T
"""

from xplm.kernels.attention import attention_fwd
from xplm.kernels.linear import linear_fwd
from xplm.namespace import array_namespace
from xplm.typing import Array, DType


def attention_residual(
    x: Array,
    q: Array,
    k: Array,
    v: Array,
    o_weight: Array,
    o_bias: Array | None,
    first: Array | None,
    *,
    start: int,
    scale: float,
    window: int | None = None,
    wide: DType | None = None,
) -> Array:
    """x (B, T, C); q (B, H, T, D); k, v (B, K, S, D); o_weight (C, H D); first (B, T)  ->  y (B, T, C) x.dtype"""
    xp = array_namespace(x)
    heads, _ = attention_fwd(q, k, v, first, start=start, scale=scale, window=window, wide=wide)
    rows = xp.reshape(xp.permute_dims(heads, (0, 2, 1, 3)), (*x.shape[:2], -1))  # (B, T, H D)
    return x + linear_fwd(rows, o_weight, o_bias)[0]
