"""A block's attention half, with its norm, its residual and its write to the cache.

n    = rms_norm(x)
q, k = rope(n Wq^T), rope(n Wk^T)
v    = n Wv^T
y    = x + attention(q, cached k, cached v) Wo^T
"""

from xplm.kernels.attention import attention_fwd
from xplm.kernels.linear import linear_fwd
from xplm.kernels.rms_norm import rms_norm_fwd
from xplm.kernels.rope import rope_fwd
from xplm.namespace import array_namespace
from xplm.typing import Array, DType, LayerCache


def norm_attention_residual(
    x: Array,
    norm: Array,
    q_weight: Array,
    k_weight: Array,
    v_weight: Array,
    o_weight: Array,
    q_bias: Array | None,
    k_bias: Array | None,
    v_bias: Array | None,
    o_bias: Array | None,
    cos: Array,
    sin: Array,
    cache: LayerCache,
    first: Array | None,
    *,
    start: int,
    scale: float,
    window: int | None = None,
    eps: float,
    island: DType | None = None,
) -> Array:
    """y (B, T, C) x.dtype; the cache holds k and v in the slots from `start` on.

    x (B, T, C); norm (C,); q_weight (H D, C); k_weight, v_weight (K D, C); o_weight (C, H D); cos, sin (B or 1, 1, T,
    D/2); first (B, T). `eps` is the norm's, and `island` the dtype of norm and softmax.
    """
    xp = array_namespace(x)
    B, T, _ = x.shape
    D = 2 * cos.shape[-1]

    def heads(rows: Array) -> Array:
        return xp.permute_dims(xp.reshape(rows, (B, T, -1, D)), (0, 2, 1, 3))

    n, _ = rms_norm_fwd(x, norm, eps=eps, island=island)
    q, _ = rope_fwd(heads(linear_fwd(n, q_weight, q_bias)[0]), cos, sin)
    k, _ = rope_fwd(heads(linear_fwd(n, k_weight, k_bias)[0]), cos, sin)
    v = heads(linear_fwd(n, v_weight, v_bias)[0])

    k, v = cache.write(k, v)  # (B, K, start + T, D)
    y, _ = attention_fwd(q, k, v, first, start=start, scale=scale, window=window, island=island)
    rows = xp.reshape(xp.permute_dims(y, (0, 2, 1, 3)), (B, T, -1))  # (B, T, H D)
    return x + linear_fwd(rows, o_weight, o_bias)[0]
