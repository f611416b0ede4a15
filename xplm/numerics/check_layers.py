"""Every layer's backward pass against central differences, in float64: its input and each of its parameters."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from xplm.backend import Backend
from xplm.config import DecoderConfig
from xplm.gradients import Gradients
from xplm.layers.block import MIXER, MLP, block_bwd, block_fwd, block_name
from xplm.layers.context import Context
from xplm.layers.experts import ROUTER
from xplm.layers.linear import linear_layer_bwd, linear_layer_fwd
from xplm.layers.norm import norm_layer_bwd, norm_layer_fwd
from xplm.layers.table import LAYERS as KINDS
from xplm.models.decoder import embed_bwd, embed_fwd, make_context, param_specs
from xplm.numerics.gradient_check import GradientError, check_gradients
from xplm.numerics.tiny_models import ROUTED, TINY_MODELS, draw_params, tiny_config
from xplm.runtime import Runtime, make_runtime
from xplm.specs import MLPSpec
from xplm.typing import Array, Params

B, T = 2, 5
LAYER = 1

Forward: TypeAlias = Callable[[Params, Array], tuple[Array, Any]]  # (params, x) -> y, saved
Backward: TypeAlias = Callable[[Array, Any, Gradients], Array | None]  # (dy, saved, grads) -> dx


class Pair(NamedTuple):
    """A layer with all but its parameters and input filled in."""

    prefix: str  # its parameters' names begin with it
    forward: Forward
    backward: Backward


def _linear(rt: Runtime, config: DecoderConfig, context: Context) -> Pair:
    is_dense = isinstance(config.blocks[LAYER].mlp, MLPSpec)
    name = f"{block_name(LAYER)}.{MLP}.{'up_proj' if is_dense else ROUTER}"
    return Pair(
        f"{name}." if is_dense else f"{name}.weight",
        lambda params, x: linear_layer_fwd(rt, params, name, x),
        lambda dy, saved, grads: linear_layer_bwd(rt, name, dy, saved, grads),
    )


def _norm(rt: Runtime, config: DecoderConfig, context: Context) -> Pair:
    name = "model.norm"
    return Pair(
        name,
        lambda params, x: norm_layer_fwd(rt, config.norm, params, name, x),
        lambda dy, saved, grads: norm_layer_bwd(rt, config.norm, name, dy, saved, grads),
    )


def _attention(rt: Runtime, config: DecoderConfig, context: Context) -> Pair:
    name, spec = f"{block_name(LAYER)}.{MIXER}", config.blocks[LAYER].mixer
    kind = KINDS[type(spec)]
    return Pair(
        f"{name}.",
        lambda params, x: kind.fwd(rt, spec, params, name, x, context),
        lambda dy, saved, grads: kind.bwd(rt, spec, name, dy, saved, grads),
    )


def _mlp(rt: Runtime, config: DecoderConfig, context: Context) -> Pair:
    name, spec = f"{block_name(LAYER)}.{MLP}", config.blocks[LAYER].mlp
    kind = KINDS[type(spec)]
    return Pair(
        f"{name}.",
        lambda params, x: kind.fwd(rt, spec, params, name, x, context),
        lambda dy, saved, grads: kind.bwd(rt, spec, name, dy, saved, grads),
    )


def _block(rt: Runtime, config: DecoderConfig, context: Context) -> Pair:
    spec = config.blocks[LAYER]
    return Pair(
        f"{block_name(LAYER)}.",
        lambda params, x: block_fwd(rt, spec, params, LAYER, x, context),
        lambda dy, saved, grads: block_bwd(rt, spec, LAYER, dy, saved, grads),
    )


def _block_with_dropout(rt: Runtime, config: DecoderConfig, context: Context) -> Pair:
    keep = {
        name: rt.backend.from_host(
            np.random.default_rng(seed).random((B, T, config.hidden_size)) > 0.3
        )
        for seed, name in enumerate(("self_attn", "mlp"))
    }

    def drop(name: str, x: Array) -> tuple[Array, Any]:
        return rt.ops.dropout_fwd(x, keep[name.rpartition(".")[2]], rate=0.3)

    return _block(rt, config, context)._replace(
        forward=lambda params, x: block_fwd(
            rt, config.blocks[LAYER], params, LAYER, x, context, drop
        )
    )


def _embed(rt: Runtime, config: DecoderConfig, context: Context) -> Pair:
    ids = rt.backend.from_host(np.random.default_rng(0).integers(0, config.vocab_size, (B, T)))
    return Pair(
        "model.embed_",
        lambda params, x: embed_fwd(rt, config, params, ids, context),
        lambda dy, saved, grads: embed_bwd(rt, config, dy, saved, grads),
    )


LAYERS: dict[str, Callable[[Runtime, DecoderConfig, Context], Pair]] = {
    "embed": _embed,
    "linear_layer": _linear,
    "norm_layer": _norm,
    "attention_layer": _attention,
    "mlp": _mlp,
    "block": _block,
    "block with dropout": _block_with_dropout,
}
"""Every layer that has a backward pass; the norm behind an addition within the block."""

VARIANTS: dict[str, dict[str, Any]] = {
    "llama, K < H": {},
    "llama, biases": {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1},
    "llama, gelu": {"hidden_act": "gelu_pytorch_tanh"},
    "mistral, window": {"model_type": "mistral", "sliding_window": 2},
    "qwen3": {"model_type": "qwen3", "head_dim": 6},
    "phi": {"model_type": "phi", "hidden_size": 16},
    "mixtral": {"model_type": "mixtral", "num_local_experts": 4},
    "qwen2_moe": ROUTED | {"model_type": "qwen2_moe", "shared_expert_intermediate_size": 6},
    "glm4_moe": TINY_MODELS["glm4_moe"],
    "gpt2": {"model_type": "gpt2"},
    "starcoder2": {"model_type": "starcoder2", "use_bias": True},
    **{
        name: TINY_MODELS[name]
        for name in (
            *("norms around", "two norms of x"),
            *("norms of all heads, cap", "norms of each head, sinks"),
        )
    },
    **{name: changes for name, changes in TINY_MODELS.items() if name.startswith("deepseek")},
}
"""Configurations that between them take every branch of every layer."""


def check_layer(
    backend: Backend,
    kernels: str,
    name: str,
    variant: str,
    *,
    entries: int | None = None,
) -> list[GradientError]:
    """One layer under one configuration.

    Args:
        backend: where to compute.
        kernels: "fused" or "portable".
        name: of LAYERS.
        variant: of VARIANTS.
        entries: as `check_gradients` takes it.

    Returns:
        One error a parameter, and one for the input "x" where the layer has one.
    """
    rt = make_runtime(backend, "fp64", kernels)
    config = tiny_config(VARIANTS[variant])
    context = make_context(rt, config, T)
    pair = LAYERS[name](rt, config, context)

    rng = np.random.default_rng(1)
    params = {
        key: array
        for key, array in draw_params(param_specs(config), seed=1).items()
        if key.startswith(pair.prefix)
    }
    x = rng.standard_normal((B, T, config.hidden_size))

    def run() -> tuple[Array, Any]:
        on_device = {key: backend.from_host(array) for key, array in params.items()}
        return pair.forward(on_device, backend.from_host(x))

    y, saved = run()
    dy = rng.standard_normal(y.shape)
    grads = Gradients()
    dx = pair.backward(backend.from_host(dy), saved, grads)

    arrays = params if dx is None else {"x": x} | params
    analytic = grads.found if dx is None else {"x": dx} | grads.found
    return check_gradients(
        lambda: float(np.sum(backend.to_host(run()[0]) * dy)),
        arrays,
        {key: backend.to_host(analytic[key]) for key in arrays},
        entries=entries,
    )
