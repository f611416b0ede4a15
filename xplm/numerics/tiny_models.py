"""Models of two layers, one for each architecture and flag, small enough to differentiate at every number.

Parameters are drawn larger than a model starts with, and norms and biases at random too: at initialisation many
gradients are nearly zero, and a mistake in them would be as small.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import cycle
from typing import Any

import numpy as np

from xplm.config import DecoderConfig
from xplm.models.families.config_json import read_config
from xplm.models.families.table import FAMILIES
from xplm.params import ParamSpec
from xplm.specs import LayerNormSpec, RMSNormSpec

BASE: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 7,
    "hidden_size": 8,
    "intermediate_size": 5,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 12,
}

ROUTED: dict[str, Any] = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 5,
}


def _norms_around(config: DecoderConfig) -> DecoderConfig:
    """Norms of both branches' outputs, in every other block of x too, by 1 + weight; every factor, and the cap."""
    norm = RMSNormSpec(1e-3, offset=1.0)
    around: dict[str, Any] = {
        "mixer_output_norm": norm,
        "mlp_output_norm": norm,
        "branch_scale": 0.7,
    }
    blocks = [
        replace(block, norm=before, mlp_norm=before, **around)
        for block, before in zip(config.blocks, cycle([None, norm]), strict=False)
    ]
    return replace(
        config,
        blocks=tuple(blocks),
        norm=norm,
        embedding_scale=1.5,
        logit_scale=0.6,
        logit_cap=2.0,
    )


def _two_norms_of_x(config: DecoderConfig) -> DecoderConfig:
    """Parallel branches with a norm each, one without a bias, one without anything to learn."""
    norm = LayerNormSpec(1e-3, offset=1.0, has_bias=False)
    bare = LayerNormSpec(1e-3, has_weight=False, has_bias=False)
    blocks = [replace(b, norm=norm, mlp_norm=bare, is_parallel=True) for b in config.blocks]
    return replace(config, blocks=tuple(blocks), norm=norm)


def _mixers(config: DecoderConfig, **changes: Any) -> DecoderConfig:
    """The configuration with changes in the attention of every block."""
    blocks = [replace(block, mixer=replace(block.mixer, **changes)) for block in config.blocks]
    return replace(config, blocks=tuple(blocks))


def _all_heads(config: DecoderConfig) -> DecoderConfig:
    """Norms of q and k over all heads, and a cap that scores come near to."""
    return _mixers(config, qk_norm=RMSNormSpec(0.1), qk_norm_over="all heads", cap=1.0)


def _each_head(config: DecoderConfig) -> DecoderConfig:
    """A norm of its own for each head, sinks and a window."""
    norm = RMSNormSpec(0.1)
    return _mixers(config, qk_norm=norm, qk_norm_over="each head", has_sinks=True, window=3)


LATENT: dict[str, Any] = {
    "num_key_value_heads": None,
    "first_k_dense_replace": 1,
    "n_routed_experts": 6,
    "n_group": 3,
    "topk_group": 2,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 5,
    "q_lora_rank": 6,
    "kv_lora_rank": 5,
    "qk_nope_head_dim": 3,
    "qk_rope_head_dim": 4,
    "v_head_dim": 2,
}
SIZES = {"deepseek_v2": LATENT, "deepseek_v3": LATENT}
"""Changes to BASE, by model_type: sizes of a family's own keys."""

TINY_MODELS: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "llama, K = 1, biases": {
        "attention_bias": True,
        "mlp_bias": True,
        "num_key_value_heads": 1,
        "head_dim": 6,
    },
    "llama, yarn": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
    "mistral, window": {"model_type": "mistral", "sliding_window": 3},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3", "head_dim": 6},
    "phi": {"model_type": "phi", "hidden_size": 16},
    "phi, norms of q and k": {
        "model_type": "phi",
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "qk_layernorm": True,
    },
    "mixtral": {"model_type": "mixtral", "num_local_experts": 4},
    "qwen3_moe": ROUTED | {"model_type": "qwen3_moe", "mlp_only_layers": [0]},
    "qwen2_moe": ROUTED | {"model_type": "qwen2_moe", "shared_expert_intermediate_size": 6},
    "glm4_moe": {
        "model_type": "glm4_moe",
        "hidden_size": 16,
        "n_routed_experts": 6,
        "n_group": 3,
        "topk_group": 2,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 5,
        "routed_scaling_factor": 2.5,
    },
    "olmoe": ROUTED | {"model_type": "olmoe"},
    "granitemoe": {"model_type": "granitemoe", "num_local_experts": 4, "logits_scaling": 2.0},
    "gpt_oss": {
        "model_type": "gpt_oss",
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "head_dim": 6,
        "sliding_window": 3,
    },
    "gpt2": {"model_type": "gpt2"},
    "gpt2, one head": {
        "model_type": "gpt2",
        "num_attention_heads": 1,
        "scale_attn_by_inverse_layer_idx": True,
    },
    "starcoder2": {"model_type": "starcoder2", "use_bias": True},
    "granite": {
        "model_type": "granite",
        "attention_multiplier": 0.4,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.6,
        "logits_scaling": 2.5,
    },
    "gemma": {"model_type": "gemma", "head_dim": 6},
    "arcee": {"model_type": "arcee"},
    "opt": {"model_type": "opt"},
    "gpt_neox": {"model_type": "gpt_neox", "hidden_size": 16, "rotary_pct": 0.5},
    "falcon": {"model_type": "falcon"},
    "stablelm": {"model_type": "stablelm", "hidden_size": 16, "partial_rotary_factor": 0.5},
    "stablelm, norms of q and k": {
        "model_type": "stablelm",
        "hidden_size": 16,
        "partial_rotary_factor": 0.5,
        "qk_layernorm": True,
        "use_parallel_residual": True,
    },
    "cohere": {"model_type": "cohere", "head_dim": 6, "use_qk_norm": True},
    "nemotron": {"model_type": "nemotron", "hidden_size": 16},
    "norms around": {"tie_word_embeddings": True, "decoder": _norms_around},
    "two norms of x": {"decoder": _two_norms_of_x},
    "smollm3": {
        "model_type": "smollm3",
        "no_rope_layers": [0, 1],
        "use_sliding_window": True,
        "sliding_window": 3,
    },
    "seed_oss": {"model_type": "seed_oss", "head_dim": 6},
    "ernie4_5": {"model_type": "ernie4_5", "head_dim": 6, "use_bias": True},
    "glm4": {"model_type": "glm4", "head_dim": 8},
    "exaone4": {
        "model_type": "exaone4",
        "head_dim": 6,
        "rms_norm_eps": 1e-2,
        "sliding_window": 3,
        "sliding_window_pattern": 2,
    },
    "cohere2": {
        "model_type": "cohere2",
        "sliding_window": 3,
        "layer_types": ["full_attention", "sliding_attention"],
    },
    "phi3": {
        "model_type": "phi3",
        "head_dim": 4,
        "rope_scaling": {
            "rope_type": "longrope",
            "short_factor": [1.0, 2.0],
            "long_factor": [1.5, 3.0],
        },
        "original_max_position_embeddings": 4,
    },
    "olmo2": {"model_type": "olmo2"},
    "olmo3": {
        "model_type": "olmo3",
        "sliding_window": 3,
        "layer_types": ["full_attention", "sliding_attention"],
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0},
    },
    "gemma2": {
        "model_type": "gemma2",
        "head_dim": 6,
        "sliding_window": 3,
        "query_pre_attn_scalar": 5,
        "attn_logit_softcapping": 1.5,
        "final_logit_softcapping": 3.0,
    },
    "gemma3_text": {
        "model_type": "gemma3_text",
        "head_dim": 6,
        "sliding_window": 3,
        "sliding_window_pattern": 2,
        "query_pre_attn_scalar": 5,
    },
    "norms of all heads, cap": {"decoder": _all_heads},
    "norms of each head, sinks": {"decoder": _each_head, "attention_bias": True},
    "deepseek_v3": {
        "model_type": "deepseek_v3",
        "attention_bias": True,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 0.7},
    },
    "deepseek_v2": {
        "model_type": "deepseek_v2",
        "num_attention_heads": 3,
        "q_lora_rank": None,
        "topk_method": "group_limited_greedy",
    },
}
"""Changes to BASE; under "decoder" one to the configuration that was read, for what no family has so."""


def tiny_config(changes: Mapping[str, Any]) -> DecoderConfig:
    """BASE with changes, in the family's own spelling; keys that it does not have are left out."""
    hf = {**BASE, **SIZES.get(str(changes.get("model_type")), {}), **changes}
    change = hf.pop("decoder", lambda config: config)
    family = FAMILIES[hf["model_type"]]
    spelt: dict[str, Any] = {}
    for key, value in hf.items():
        spelt.setdefault(family.spelling.get(key, key), value)  # two of our keys may be one of its
    if "kv_lora_rank" in family.keys:  # every head has keys of its own
        spelt["num_key_value_heads"] = spelt["num_attention_heads"]
    return change(read_config({k: v for k, v in spelt.items() if k in family.keys}))


def draw_params(specs: Mapping[str, ParamSpec], seed: int) -> dict[str, np.ndarray]:
    """Random parameters in float64, on the host: products of order 1, norms about 1, biases about 0."""
    rng = np.random.default_rng(seed)
    params = {}
    for name, spec in specs.items():
        noise = rng.standard_normal(spec.shape)
        if spec.init == "normal":
            params[name] = noise / np.sqrt(spec.shape[-1])
        else:
            params[name] = (spec.init == "ones") + 0.2 * noise
    return params
