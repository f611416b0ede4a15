"""A block's attention half, with its norms, its residual and its write to the cache.

n    = norm(x)
q, k = n Wq^T, n Wk^T
q, k = norm(q), norm(k)                     of a head or of all together, where they have a norm
q, k = rope(q), rope(k)                     where they are rotated
v    = n Wv^T
y    = x + c norm(attention(q, cached k, cached v) Wo^T)

Norms are of a kind of `xplm.kernels.parts.norms`; any may be left out.
"""

from typing import Any

from xplm.kernels.fusions.cached_attention import cached_attention
from xplm.kernels.linear import linear_fwd
from xplm.kernels.parts.norms import RMS, add_branch, apply_norm
from xplm.kernels.rope import HALVES, rope_fwd
from xplm.namespace import array_namespace
from xplm.typing import Array, DType
from xplm.views import LayerCache, Rows


def norm_attention_residual(
    x: Array,
    norm: Array | None,
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
    output_norm: Array | None = None,
    *,
    scale: float,
    window: int | None = None,
    cap: float | None = None,
    pairs: str = HALVES,
    branch_scale: float = 1.0,
    norm_kind: str = RMS,
    eps: float,
    island: DType | None = None,
) -> Array:
    """y (B, T, C) x.dtype; the cache holds k and v in the slots from each row's start on.

    x (B, T, C); norm, output_norm (C,); q_weight (H D, C); k_weight (K D, C); v_weight (K Dv, C); o_weight (C, H Dv);
    q_norm, k_norm (D,), (H or K, D), or over all heads (H D,) and (K D,); sinks (H,); cos, sin (B or 1, 1, T, R/2),
    None where nothing is rotated. `eps` is that of all norms, and `island` the dtype of norms and softmax.
    """
    xp = array_namespace(x)
    B, T, _ = x.shape
    D, Dv = cache.keys.shape[3], cache.values.shape[3]
    norms: dict[str, Any] = {"kind": norm_kind, "eps": eps, "island": island}

    def heads(joined: Array, width: int, norm: Array | None = None) -> Array:
        if norm is not None:
            rows = xp.reshape(joined, (B, T, -1, norm.shape[-1]))
            joined = apply_norm(rows, norm, **norms)
        return xp.permute_dims(xp.reshape(joined, (B, T, -1, width)), (0, 2, 1, 3))

    n = apply_norm(x, norm, **norms)
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
    branch, _ = linear_fwd(joined, o_weight, o_bias)
    return add_branch(x, branch, output_norm, scale=branch_scale, **norms)
