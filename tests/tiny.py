"""Configurations small enough for a naive float64 decoder, one for each flag of a family."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from xplm.config import DecoderConfig
from xplm.models.decoder import param_specs
from xplm.models.families.config_json import read_config
from xplm.models.families.table import FAMILIES
from xplm.numerics.tiny_models import SIZES
from xplm.params import init_params
from xplm.runtime import Runtime
from xplm.typing import Params

BASE: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.3,
    "rope_theta": 10000.0,
}

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}

LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.5],
    "long_factor": [2.0, 5.0],
    "original_max_position_embeddings": 8,
}

PHI = {"model_type": "phi", "hidden_size": 32, "rms_norm_eps": None}
WINDOW = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}

VARIANTS: dict[str, dict[str, Any]] = {
    "gqa": {},
    "mha": {"num_key_value_heads": 4},
    "mqa": {"num_key_value_heads": 1},
    "head_dim": {"head_dim": 10},
    "tied": {"tie_word_embeddings": True},
    "attention_bias": {"attention_bias": True},
    "mlp_bias": {"mlp_bias": True},
    "gelu": {"hidden_act": "gelu_pytorch_tanh"},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "dynamic": {
        "rope_scaling": {"rope_type": "dynamic", "factor": 2.0},
        "max_position_embeddings": 8,
    },
    "llama3": {"rope_scaling": LLAMA3},
    "longrope": {"rope_scaling": LONGROPE},
    "yarn": {"rope_scaling": YARN},
    "mistral": {"model_type": "mistral", "sliding_window": 5},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3", "head_dim": 6},
    "granite": {
        "model_type": "granite",
        "attention_multiplier": 0.4,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.6,
        "logits_scaling": 2.5,
    },
    "gemma": {"model_type": "gemma", "head_dim": 6},
    "cohere": {"model_type": "cohere", "rms_norm_eps": None},
    "nemotron": {"model_type": "nemotron", "rms_norm_eps": None},
    "qwen2_window": WINDOW | {"model_type": "qwen2"},
    "qwen3_window": WINDOW | {"model_type": "qwen3", "head_dim": 8, "attention_bias": True},
    "phi": PHI,
    "phi_qk_norm": PHI
    | {
        "qk_layernorm": True,
        "partial_rotary_factor": 0.75,
        "tie_word_embeddings": True,
    },
}


def facts(config: DecoderConfig) -> SimpleNamespace:
    """What the blocks of a configuration have in common, and what differs by layer, by short names."""
    block = config.blocks[0]
    return SimpleNamespace(
        num_attention_heads=block.mixer.num_heads,
        num_key_value_heads=block.mixer.num_key_value_heads,
        head_dim=block.mixer.head_dim,
        intermediate_size=block.mlp.intermediate_size,
        norm=type(block.first_norm),
        norm_eps=block.first_norm.eps,
        activation=block.mlp.activation,
        rope=block.mixer.rope,
        biases=(block.mixer.qkv_bias, block.mixer.output_bias, block.mlp.bias),
        scales=[b.mixer.scale for b in config.blocks],
        windows=tuple(b.mixer.window for b in config.blocks),
    )


def make_config(**changes: Any) -> DecoderConfig:
    """BASE with changes, in the family's spelling, and sizes of the keys that it alone has."""
    model_type = str(changes.get("model_type", BASE["model_type"]))
    spelling = FAMILIES[model_type].spelling if model_type in FAMILIES else {}
    spelt: dict[str, Any] = {}
    for key, value in (BASE | SIZES.get(model_type, {}) | changes).items():
        spelt.setdefault(spelling.get(key, key), value)  # two of our keys may be one of its
    return read_config(spelt)


def change_mixers(config: DecoderConfig, **changes: Any) -> DecoderConfig:
    """A configuration with changes in the attention of every block."""
    blocks = [replace(block, mixer=replace(block.mixer, **changes)) for block in config.blocks]
    return replace(config, blocks=tuple(blocks))


def make_parallel() -> DecoderConfig:
    """A decoder of no family, with all that the decode path takes: blocks whose attention and MLP read one norm, norms
    of the heads, a rotation of two thirds of each, values of a width of their own, a window and biases.
    """
    config = make_config(head_dim=6, attention_bias=True, mlp_bias=True)
    mixer = config.blocks[0].mixer
    config = change_mixers(
        config, rope=replace(mixer.rope, dim=4), qk_norm=config.norm, value_dim=5, window=3
    )
    blocks = [replace(block, mlp_norm=None, is_parallel=True) for block in config.blocks]
    return replace(config, blocks=tuple(blocks))


def make_ropes_by_layer() -> DecoderConfig:
    """A decoder of no family whose layers have neighbours as pairs, no RoPE, halves, and neighbours at another
    theta.
    """
    config = make_config(num_hidden_layers=4)
    rope = config.blocks[0].mixer.rope
    assert rope is not None
    neighbours = replace(rope, pairs="neighbours")
    ropes = (neighbours, None, rope, replace(neighbours, rope_theta=50.0))
    blocks = [
        replace(block, mixer=replace(block.mixer, rope=own))
        for block, own in zip(config.blocks, ropes, strict=True)
    ]
    return replace(config, blocks=tuple(blocks))


def make_params(rt: Runtime, config: DecoderConfig, seed: int = 0) -> Params:
    """Random parameters in which biases and norms are random too, so that none can be forgotten unnoticed."""
    params = init_params(rt, param_specs(config), seed)
    rng = np.random.default_rng(seed)
    for name, spec in param_specs(config).items():
        if spec.init != "normal":
            host = (spec.init == "ones") + 0.2 * rng.standard_normal(spec.shape)
            array = rt.backend.from_host(host)
            params[name] = rt.backend.xp.astype(array, rt.dtype.param)
    return params


def draw_ids(seed: int, *shape: int) -> np.ndarray:
    """Token ids of BASE's vocabulary."""
    return np.random.default_rng(seed).integers(0, BASE["vocab_size"], shape)
