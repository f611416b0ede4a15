"""A decoder block: attention and MLP, each behind a norm and beside a residual.

x = x + attention(norm(x))
x = x + mlp(norm(x))
"""

from typing import Any, NamedTuple

from xplm.config import DecoderConfig
from xplm.layers.attention import AttentionLayerSaved, Context, attention_layer_fwd
from xplm.layers.mlp import MLPSaved, mlp_fwd
from xplm.runtime import Runtime
from xplm.typing import Array, Params


class BlockSaved(NamedTuple):
    attention_norm: Any  # RMSNormSaved
    attention: AttentionLayerSaved
    mlp_norm: Any  # RMSNormSaved
    mlp: MLPSaved


def block_fwd(
    rt: Runtime, config: DecoderConfig, params: Params, layer: int, x: Array, context: Context
) -> tuple[Array, BlockSaved]:
    """One block.   x (B, T, C)  ->  y (B, T, C).   Arguments as `attention_layer_fwd`'s, x not yet normalised."""
    name = f"model.layers.{layer}"

    def norm(part: str, rows: Array) -> tuple[Array, Any]:
        weight = params[f"{name}.{part}.weight"]
        return rt.ops.rms_norm_fwd(rows, weight, eps=config.rms_norm_eps, wide=rt.dtype.norm)

    n, attention_norm = norm("input_layernorm", x)
    y, attention = attention_layer_fwd(rt, config, params, layer, n, context)
    x = x + y

    n, mlp_norm = norm("post_attention_layernorm", x)
    y, mlp = mlp_fwd(rt, params, f"{name}.mlp", n)
    x = x + y
    return x, BlockSaved(attention_norm, attention, mlp_norm, mlp)
