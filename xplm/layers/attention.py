"""The attention half of a block: project, turn, attend, project back.

q, k, v = x Wq^T, x Wk^T, x Wv^T            cut into heads of width D
q, k    = rope(q), rope(k)
y       = attention(q, cached k, cached v) Wo^T
"""

from typing import Any, NamedTuple

from xplm.cache import KVCache
from xplm.config import DecoderConfig
from xplm.layers.linear import linear_layer_bwd, linear_layer_fwd
from xplm.runtime import Runtime
from xplm.typing import Array, Params


class Context(NamedTuple):
    """What all layers of one forward pass share."""

    positions: Array | None  # (B or 1, T), integer; None with RoPE
    cos: Array | None  # (B or 1, 1, T, D/2); None with learned positions
    sin: Array | None  # (B or 1, 1, T, D/2)
    first: Array | None  # (B, T): first slot that each query may see; None: all from 0
    padding: (
        Array | None
    )  # (B, T, 1) bool: positions before their sequence begins; None: there are none
    start: int  # slot of the first query
    cache: KVCache | None


class AttentionLayerSaved(NamedTuple):
    q: Any  # LinearSaved
    k: Any  # LinearSaved
    v: Any  # LinearSaved
    rope_q: Any  # RopeSaved; None with learned positions
    rope_k: Any  # RopeSaved
    attention: Any  # AttentionSaved
    o: Any  # LinearSaved


def attention_layer_fwd(
    rt: Runtime, config: DecoderConfig, params: Params, layer: int, x: Array, context: Context
) -> tuple[Array, AttentionLayerSaved]:
    """Causal grouped-query self-attention.   x (B, T, C)  ->  y (B, T, C)

    Args:
        rt: backend, kernels and dtypes.
        config: the model's.
        params: the model's parameters.
        layer: this layer's number, from 0.
        x: input (B, T, C), normalised.
        context: tables, mask and cache of this forward pass.
    """
    xp = rt.backend.xp
    B, T, _ = x.shape
    D = config.head_dim
    name = f"model.layers.{layer}.self_attn"

    def heads(rows: Array) -> Array:
        return xp.permute_dims(xp.reshape(rows, (B, T, -1, D)), (0, 2, 1, 3))

    q, q_saved = linear_layer_fwd(rt, params, f"{name}.q_proj", x)  # (B, T, H D)
    k, k_saved = linear_layer_fwd(rt, params, f"{name}.k_proj", x)  # (B, T, K D)
    v, v_saved = linear_layer_fwd(rt, params, f"{name}.v_proj", x)  # (B, T, K D)
    q, k, v = heads(q), heads(k), heads(v)  # (B, H or K, T, D)

    rope_q_saved = rope_k_saved = None
    if context.cos is not None:
        q, rope_q_saved = rt.ops.rope_fwd(q, context.cos, context.sin)
        k, rope_k_saved = rt.ops.rope_fwd(k, context.cos, context.sin)
    if context.cache is not None:
        k, v = context.cache.write(layer, k, v)  # (B, K, S, D)

    y, attention_saved = rt.ops.attention_fwd(
        q,
        k,
        v,
        context.first,
        start=context.start,
        scale=config.attention_scale(layer),
        window=config.windows[layer],
        island=rt.dtype.softmax,
    )  # (B, H, T, D)

    y = xp.reshape(xp.permute_dims(y, (0, 2, 1, 3)), (B, T, -1))  # (B, T, H D)
    y, o_saved = linear_layer_fwd(rt, params, f"{name}.o_proj", y)  # (B, T, C)
    return y, AttentionLayerSaved(
        q_saved, k_saved, v_saved, rope_q_saved, rope_k_saved, attention_saved, o_saved
    )


def attention_layer_bwd(
    rt: Runtime, config: DecoderConfig, layer: int, dy: Array, saved: AttentionLayerSaved
) -> tuple[Array, Params]:
    """dx (B, T, C) and gradients by parameter name, from dy (B, T, C). The pass forward had no cache."""
    xp = rt.backend.xp
    B, T, _ = dy.shape
    name = f"model.layers.{layer}.self_attn"

    def joined(heads: Array) -> Array:
        return xp.reshape(xp.permute_dims(heads, (0, 2, 1, 3)), (B, T, -1))

    # y = joined heads Wo^T
    dheads, grads = linear_layer_bwd(rt, f"{name}.o_proj", dy, saved.o)  # (B, T, H D)
    dheads = xp.permute_dims(xp.reshape(dheads, (B, T, -1, config.head_dim)), (0, 2, 1, 3))

    # heads = attention(rope(q), rope(k), v)
    dq, dk, dv, _ = rt.ops.attention_bwd(dheads, saved.attention)  # (B, H or K, T, D)
    if saved.rope_q is not None:
        dq, _, _ = rt.ops.rope_bwd(dq, saved.rope_q)
        dk, _, _ = rt.ops.rope_bwd(dk, saved.rope_k)

    # q, k, v = x Wq^T, x Wk^T, x Wv^T: x is read three times
    dx = None
    for part, dpart, part_saved in (
        ("q_proj", dq, saved.q),
        ("k_proj", dk, saved.k),
        ("v_proj", dv, saved.v),
    ):
        dx_part, part_grads = linear_layer_bwd(rt, f"{name}.{part}", joined(dpart), part_saved)
        dx = dx_part if dx is None else dx + dx_part
        grads |= part_grads
    return dx, grads
