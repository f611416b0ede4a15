"""The decoder of Llama, Mistral and Qwen2.

    x      = embedding(ids)
    x      = block(x)                 L times
    logits = norm(x) @ lm_head^T      lm_head is the embedding table where they are tied

A family differs by flags of its configuration, never by code.
"""

import numpy as np

from xplm.cache import KVCache
from xplm.config import DecoderConfig
from xplm.kernels.rope import rope_tables
from xplm.layers.attention import Context
from xplm.layers.block import block_fwd
from xplm.params import ParamSpec
from xplm.precision import cast
from xplm.rope_scaling import inverse_frequencies
from xplm.runtime import Runtime
from xplm.typing import Array, Params

EMBEDDING = "model.embed_tokens.weight"
LM_HEAD = "lm_head.weight"


def param_specs(config: DecoderConfig) -> dict[str, ParamSpec]:
    """Every parameter of a configuration, by Hugging Face name. Tied embeddings have one, under EMBEDDING."""
    C, F, V = config.hidden_size, config.intermediate_size, config.vocab_size
    D = config.head_dim
    q_width, kv_width = config.num_attention_heads * D, config.num_key_value_heads * D
    std = config.initializer_range
    residual_std = std / (2 * config.num_hidden_layers) ** 0.5
    specs: dict[str, ParamSpec] = {}

    def add(name: str, *shape: int, init: str = "normal", std: float = 0.0) -> None:
        specs[name] = ParamSpec(name, shape, init, std)

    def linear(name: str, outputs: int, inputs: int, *, bias: bool, std: float) -> None:
        add(f"{name}.weight", outputs, inputs, std=std)
        if bias:
            add(f"{name}.bias", outputs, init="zeros")

    add(EMBEDDING, V, C, std=std)
    for layer in range(config.num_hidden_layers):
        name = f"model.layers.{layer}"
        bias = config.attention_bias
        add(f"{name}.input_layernorm.weight", C, init="ones")
        linear(f"{name}.self_attn.q_proj", q_width, C, bias=bias, std=std)
        linear(f"{name}.self_attn.k_proj", kv_width, C, bias=bias, std=std)
        linear(f"{name}.self_attn.v_proj", kv_width, C, bias=bias, std=std)
        linear(f"{name}.self_attn.o_proj", C, q_width, bias=config.output_bias, std=residual_std)
        add(f"{name}.post_attention_layernorm.weight", C, init="ones")
        linear(f"{name}.mlp.gate_proj", F, C, bias=config.mlp_bias, std=std)
        linear(f"{name}.mlp.up_proj", F, C, bias=config.mlp_bias, std=std)
        linear(f"{name}.mlp.down_proj", C, F, bias=config.mlp_bias, std=residual_std)
    add("model.norm.weight", C, init="ones")
    if not config.tie_word_embeddings:
        add(LM_HEAD, V, C, std=std)
    return specs


def forward(
    rt: Runtime,
    config: DecoderConfig,
    params: Params,
    ids: Array,
    cache: KVCache | None = None,
    *,
    first: np.ndarray | None = None,
    last_only: bool = False,
) -> Array:
    """Logits of the token after each position.

    Args:
        rt: backend, kernels and dtypes.
        config: the model's.
        params: its parameters, as `param_specs` lists them.
        ids: token ids (B, T), integer, on the backend's device. They take the slots after the cache's last.
        cache: earlier keys and values; this pass adds its own and advances it by T. None: there are none.
        first: for each row the slot its sequence begins in (B,), on the host; earlier slots are padding.
            None: every sequence begins in slot 0.
        last_only: give the logits of the last position alone.

    Returns:
        Logits (B, T, V), or (B, 1, V), in the policy's loss dtype.
    """
    x, _ = rt.ops.embedding_fwd(ids, params[EMBEDDING])
    x = cast(x, rt.dtype.compute)  # (B, T, C)

    context = make_context(rt, config, ids.shape[1], cache, first)
    for layer in range(config.num_hidden_layers):
        x, _ = block_fwd(rt, config, params, layer, x, context)
    if cache is not None:
        cache.advance(ids.shape[1])

    if last_only:
        x = x[:, -1:, :]
    return lm_head(rt, config, params, x)


def lm_head(rt: Runtime, config: DecoderConfig, params: Params, x: Array) -> Array:
    """norm(x) @ lm_head^T.   x (B, T, C)  ->  logits (B, T, V), in the policy's loss dtype"""
    weight = params[EMBEDDING if config.tie_word_embeddings else LM_HEAD]

    norm_weight = params["model.norm.weight"]
    x, _ = rt.ops.rms_norm_fwd(x, norm_weight, eps=config.rms_norm_eps, wide=rt.dtype.norm)
    logits, _ = rt.ops.linear_fwd(cast(x, rt.dtype.loss), weight)
    return logits


def make_context(
    rt: Runtime, config: DecoderConfig, T: int, cache: KVCache | None, first: np.ndarray | None
) -> Context:
    """RoPE tables and mask limits of T positions that follow the cache's last."""
    start = 0 if cache is None else cache.length
    slots = np.arange(start, start + T)[None, :]  # (1, T)
    positions = slots if first is None else np.maximum(slots - first[:, None], 0)  # (B, T)

    inv_freq, scale = inverse_frequencies(
        config.rope,
        head_dim=config.head_dim,
        max_position_embeddings=config.max_position_embeddings,
        length=int(positions.max()) + 1,
    )
    cos, sin = rope_tables(positions, inv_freq, scale=scale, dtype=rt.host_dtype.rope)

    backend = rt.backend
    on_device = None
    if first is not None:
        on_device = backend.from_host(np.broadcast_to(first[:, None], (len(first), T)).copy())
    return Context(backend.from_host(cos), backend.from_host(sin), on_device, start, cache)
