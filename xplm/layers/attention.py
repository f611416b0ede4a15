"""The attention half of a block: project, turn, attend, project back.

q, k, v = x Wq^T, x Wk^T, x Wv^T            cut into heads of width D
q, k    = rope(q), rope(k)
y       = attention(q, cached k, cached v) Wo^T
"""

from typing import Any, NamedTuple

from xplm.cache import KVCache
from xplm.config import DecoderConfig
from xplm.runtime import Runtime
from xplm.typing import Array, Params


class Context(NamedTuple):
    """What all layers of one forward pass share."""

    cos: Array  # (B or 1, 1, T, D/2)
    sin: Array  # (B or 1, 1, T, D/2)
    first: Array | None  # (B, T): first slot that each query may see; None: all from 0
    start: int  # slot of the first query
    cache: KVCache | None


class AttentionLayerSaved(NamedTuple):
    q: Any  # LinearSaved
    k: Any  # LinearSaved
    v: Any  # LinearSaved
    rope_q: Any  # RopeSaved
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

    def linear(part: str, rows: Array) -> tuple[Array, Any]:
        weight = params[f"{name}.{part}.weight"]
        return rt.ops.linear_fwd(rows, weight, params.get(f"{name}.{part}.bias"))

    def heads(rows: Array) -> Array:
        return xp.permute_dims(xp.reshape(rows, (B, T, -1, D)), (0, 2, 1, 3))

    q, q_saved = linear("q_proj", x)  # (B, T, H D)
    k, k_saved = linear("k_proj", x)  # (B, T, K D)
    v, v_saved = linear("v_proj", x)  # (B, T, K D)

    q, rope_q_saved = rt.ops.rope_fwd(heads(q), context.cos, context.sin)  # (B, H, T, D)
    k, rope_k_saved = rt.ops.rope_fwd(heads(k), context.cos, context.sin)  # (B, K, T, D)
    v = heads(v)  # (B, K, T, D)
    if context.cache is not None:
        k, v = context.cache.write(layer, k, v)  # (B, K, S, D)

    y, attention_saved = rt.ops.attention_fwd(
        q,
        k,
        v,
        context.first,
        start=context.start,
        scale=D**-0.5,
        window=config.windows[layer],
        wide=rt.dtype.softmax,
    )  # (B, H, T, D)

    y = xp.reshape(xp.permute_dims(y, (0, 2, 1, 3)), (B, T, -1))  # (B, T, H D)
    y, o_saved = linear("o_proj", y)  # (B, T, C)
    return y, AttentionLayerSaved(
        q_saved, k_saved, v_saved, rope_q_saved, rope_k_saved, attention_saved, o_saved
    )
