"""A block's attention half, with its norm, its residual and its write to the cache.

n    = rms_norm(x)
q, k = n Wq^T, n Wk^T
q, k = rms_norm(q), rms_norm(k)             of each head, where they have a norm
q, k = rope(q), rope(k)                     where they are rotated
v    = n Wv^T
y    = x + attention(q, cached k, cached v) Wo^T
"""

from xplm.kernels.fusions.cached_attention import cached_attention
from xplm.kernels.linear import linear_fwd
from xplm.kernels.rms_norm import rms_norm_fwd
from xplm.kernels.rope import HALVES, rope_fwd
from xplm.namespace import array_namespace
from xplm.typing import Array, DType
from xplm.views import LayerCache, Rows


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
    q_norm: Array | None,
    k_norm: Array | None,
    sinks: Array | None,
    cos: Array | None,
    sin: Array | None,
    cache: LayerCache,
    rows: Rows,
    *,
    scale: float,
    window: int | None = None,
    cap: float | None = None,
    pairs: str = HALVES,
    eps: float,
    island: DType | None = None,
) -> Array:
    """y (B, T, C) x.dtype; the cache holds k and v in the slots from each row's start on.

    x (B, T, C); norm (C,); q_weight (H D, C); k_weight (K D, C); v_weight (K Dv, C); o_weight (C, H Dv); q_norm, k_norm
    (D,); sinks (H,); cos, sin (B or 1, 1, T, R/2), None where nothing is rotated. `eps` is that of all norms, and
    `island` the dtype of norms and softmax.
    """
    xp = array_namespace(x)
    B, T, _ = x.shape
    D, Dv = cache.keys.shape[3], cache.values.shape[3]

    def heads(joined: Array, width: int, norm: Array | None = None) -> Array:
        cut = xp.permute_dims(xp.reshape(joined, (B, T, -1, width)), (0, 2, 1, 3))
        return cut if norm is None else rms_norm_fwd(cut, norm, eps=eps, island=island)[0]

    n, _ = rms_norm_fwd(x, norm, eps=eps, island=island)
    q = heads(linear_fwd(n, q_weight, q_bias)[0], D, q_norm)
    k = heads(linear_fwd(n, k_weight, k_bias)[0], D, k_norm)
    if cos is not None and sin is not None:
        q, _ = rope_fwd(q, cos, sin, pairs=pairs)
        k, _ = rope_fwd(k, cos, sin, pairs=pairs)
    v = heads(linear_fwd(n, v_weight, v_bias)[0], Dv)

    view = cache.extend(k, v, rows)
    y = cached_attention(
        q, view, sinks, scale=scale, window=window, cap=cap, island=island
    )  # (B, H, T, Dv)
    joined = xp.reshape(xp.permute_dims(y, (0, 2, 1, 3)), (B, T, -1))  # (B, T, H Dv)
    return x + linear_fwd(joined, o_weight, o_bias)[0]
