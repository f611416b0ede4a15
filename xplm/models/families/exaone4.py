"""EXAONE 4: norms of both branches' outputs and of q and k; of its layers those with a window are rotated, or all.

transformers: models/exaone4
"""

from dataclasses import replace
from typing import Any

from xplm.config import DecoderConfig
from xplm.models.families.blocks import read_llama_block, with_rope_in_windows
from xplm.models.families.family import COMMON, ROPE, SIZES, Family
from xplm.models.families.fields import Fields
from xplm.models.families.gguf import (
    PATTERN,
    WINDOW,
    GGUFLayout,
    read_windows_by_layer,
    write_windows_by_layer,
)
from xplm.models.families.rope import write_rope
from xplm.models.families.windows import (
    FULL,
    read_windows_by_pattern,
    require_layer_types,
    write_windows_by_layer_type,
)
from xplm.specs import BlockSpec, RMSNormSpec

DEFAULT_WINDOW = 4096


def read_blocks(hf: Fields) -> tuple[BlockSpec, ...]:
    """Blocks from config.json; a `sliding_window` of null is that of a model without windows, and rotates all."""
    qk_norm = RMSNormSpec(hf.number("rms_norm_eps"))
    block = read_llama_block(hf, qkv_bias=False, output_bias=False, qk_norm=qk_norm)
    norm = block.norm
    block = replace(block, norm=None, mlp_norm=None, mixer_output_norm=norm, mlp_output_norm=norm)
    if hf.get("sliding_window") is None:
        require_layer_types(hf, FULL)
        return (block,) * hf.integer("num_hidden_layers")
    return with_rope_in_windows(block, read_windows_by_pattern(hf))


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    keys = write_rope(*config.ropes[:1]) | write_windows_by_layer_type(config.blocks)
    if not config.ropes:  # full layers of a model with windows
        keys["sliding_window"] = DEFAULT_WINDOW
    return keys


EXAONE4 = Family(
    "exaone4",
    "Exaone4ForCausalLM",
    keys=(
        *(*COMMON, *SIZES, *ROPE),
        *("rms_norm_eps", "sliding_window", "sliding_window_pattern"),
    ),
    norm_eps_key="rms_norm_eps",
    hidden_act="silu",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    defaults={
        "num_key_value_heads": 32,
        "rms_norm_eps": 1e-5,
        "sliding_window": DEFAULT_WINDOW,
        "sliding_window_pattern": 4,
        "bos_token_id": 0,
        "eos_token_id": 2,
    },
    modules={
        "post_self_attn_layernorm": "post_attention_layernorm",
        "post_mlp_layernorm": "post_feedforward_layernorm",
    },
    gguf=(
        GGUFLayout(
            "exaone4",
            keys=(WINDOW, PATTERN),
            read=read_windows_by_layer,
            write=write_windows_by_layer,
            modules={
                "self_attn.q_norm": "attn_q_norm",
                "self_attn.k_norm": "attn_k_norm",
                "post_self_attn_layernorm": "post_attention_norm",
                "post_mlp_layernorm": "post_ffw_norm",
            },
        ),
    ),
)
