"""A decoder block for one token a row, as decoding takes it: `block_fwd` in two calls, one for each half.

x = x + attention(norm(x))          writes to the cache
x = x + mlp(norm(x))
"""

from xplm.config import DecoderConfig
from xplm.layers.attention import Context
from xplm.runtime import Runtime
from xplm.typing import Array, Params


def takes_steps(rt: Runtime, config: DecoderConfig, params: Params, context: Context) -> bool:
    """Whether `block_step` gives, for one token a row, what `block_fwd` gives.

    It does for blocks like Llama's, without adapters, on a runtime that has the fusions: one that judges single ops
    has not. Islands that are given up are for the single ops too.
    """
    islands = (rt.dtype.norm, rt.dtype.rope, rt.dtype.softmax)
    return (
        "norm_attention_residual" in rt.kernels
        and context.cache is not None
        and context.cos is not None
        and context.cos.shape[2] == 1
        and (config.norm, config.activation) == ("rms_norm", "swiglu")
        and all(dtype == rt.backend.xp.float32 for dtype in islands)
        and not any("lora_A" in name for name in params)
    )


def block_step(
    rt: Runtime, config: DecoderConfig, params: Params, layer: int, x: Array, context: Context
) -> Array:
    """One block.   x (B, 1, C)  ->  y (B, 1, C).   Arguments as `block_fwd`'s, the context's cache among them."""
    assert context.cache is not None
    name = f"model.layers.{layer}"
    norm = {"eps": config.norm_eps, "wide": rt.dtype.norm}

    x = rt.ops.norm_attention_residual(
        x,
        params[f"{name}.input_layernorm.weight"],
        *_linears(params, f"{name}.self_attn", ("q_proj", "k_proj", "v_proj", "o_proj")),
        context.cos,
        context.sin,
        context.cache.of_layer(layer),
        context.first,
        start=context.start,
        scale=config.head_dim**-0.5,
        window=config.windows[layer],
        **norm,
    )
    return rt.ops.norm_mlp_residual(
        x,
        params[f"{name}.post_attention_layernorm.weight"],
        *_linears(params, f"{name}.mlp", ("gate_proj", "up_proj", "down_proj")),
        **norm,
    )


def _linears(params: Params, name: str, parts: tuple[str, ...]) -> list[Array | None]:
    """The weights of these layers, then their biases, None where there is none."""
    weights = [params[f"{name}.{part}.weight"] for part in parts]
    return weights + [params.get(f"{name}.{part}.bias") for part in parts]
