"""A decoder block: attention and MLP, each behind a norm and beside a residual.

    x = x + attention(norm(x))
    x = x + mlp(norm(x))

Gradient. A residual adds: what comes back goes both into the branch and past it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from xplm.config import DecoderConfig
from xplm.layers.attention import (
    AttentionLayerSaved,
    Context,
    attention_layer_bwd,
    attention_layer_fwd,
)
from xplm.layers.mlp import MLPSaved, mlp_bwd, mlp_fwd
from xplm.layers.norm import add_norm_layer_bwd, add_norm_layer_fwd, norm_layer_fwd
from xplm.runtime import Runtime
from xplm.typing import Array, Params

Drop: TypeAlias = Callable[[str, Array], tuple[Array, Any]]
"""Dropout under a name: (name, x) -> (y, DropoutSaved), or (x, None) where nothing is dropped."""


class BlockSaved(NamedTuple):
    attention_norm: Any  # RMSNormSaved or LayerNormSaved
    attention: AttentionLayerSaved
    attention_drop: Any  # DropoutSaved or None
    mlp_norm: Any  # RMSNormSaved or LayerNormSaved
    mlp: MLPSaved
    mlp_drop: Any  # DropoutSaved or None


def keep_all(name: str, x: Array) -> tuple[Array, None]:
    """The dropout that drops nothing."""
    return x, None


def block_fwd(
    rt: Runtime,
    config: DecoderConfig,
    params: Params,
    layer: int,
    x: Array,
    context: Context,
    drop: Drop = keep_all,
) -> tuple[Array, BlockSaved]:
    """One block.   x (B, T, C)  ->  y (B, T, C).   Arguments as `attention_layer_fwd`'s, x not yet normalised."""
    name = f"model.layers.{layer}"

    n, attention_norm = norm_layer_fwd(rt, config, params, f"{name}.input_layernorm", x)
    y, attention = attention_layer_fwd(rt, config, params, layer, n, context)
    y, attention_drop = drop(f"{name}.self_attn", y)

    norm_name = f"{name}.post_attention_layernorm"
    x, n, mlp_norm = add_norm_layer_fwd(rt, config, params, norm_name, x, y)
    y, mlp = mlp_fwd(rt, config, params, f"{name}.mlp", n)
    y, mlp_drop = drop(f"{name}.mlp", y)
    x = x + y
    return x, BlockSaved(attention_norm, attention, attention_drop, mlp_norm, mlp, mlp_drop)


def block_bwd(
    rt: Runtime, config: DecoderConfig, layer: int, dx: Array, saved: BlockSaved
) -> tuple[Array, Params]:
    """dx (B, T, C) before the block and gradients by parameter name, from dx (B, T, C) after it."""
    name = f"model.layers.{layer}"

    # x = x + drop(mlp(norm(x)))
    dy = undrop(rt, dx, saved.mlp_drop)
    dn, grads = mlp_bwd(rt, config, f"{name}.mlp", dy, saved.mlp)
    norm_name = f"{name}.post_attention_layernorm"
    dx, more = add_norm_layer_bwd(rt, config, norm_name, dx, dn, saved.mlp_norm)
    grads |= more

    # x = x + drop(attention(norm(x)))
    dy = undrop(rt, dx, saved.attention_drop)
    dn, more = attention_layer_bwd(rt, config, layer, dy, saved.attention)
    grads |= more
    norm_name = f"{name}.input_layernorm"
    dx, more = add_norm_layer_bwd(rt, config, norm_name, dx, dn, saved.attention_norm)
    return dx, grads | more


def undrop(rt: Runtime, dy: Array, saved: Any) -> Array:
    """The gradient through a `Drop`."""
    return dy if saved is None else rt.ops.dropout_bwd(dy, saved)[0]
