"""Qwen3: Qwen2's block with a norm on each head of q and k, and biases where its file asks for them.

transformers: models/qwen3
"""

from typing import Any

from xplm.config import DecoderConfig
from xplm.models.families.blocks import read_llama_block, with_windows
from xplm.models.families.family import COMMON, ROPE, SIZES, Family
from xplm.models.families.fields import Fields
from xplm.models.families.gguf import GGUFLayout
from xplm.models.families.rope import write_rope
from xplm.models.families.windows import (
    SWITCHED,
    SWITCHED_DEFAULTS,
    read_switched_windows,
    write_switched_windows,
)
from xplm.specs import BlockSpec, RMSNormSpec


def read_blocks(hf: Fields) -> tuple[BlockSpec, ...]:
    """Blocks from config.json."""
    bias = hf.flag("attention_bias")
    qk_norm = RMSNormSpec(hf.number("rms_norm_eps", 1e-6))
    block = read_llama_block(hf, qkv_bias=bias, output_bias=bias, qk_norm=qk_norm)
    return with_windows(block, read_switched_windows(hf))


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    keys = write_rope(config.ropes[0]) | write_switched_windows(config.blocks)
    return keys | {"attention_bias": config.blocks[0].mixer.qkv_bias}


QWEN3 = Family(
    "qwen3",
    "Qwen3ForCausalLM",
    keys=(
        *(*COMMON, *SIZES, *ROPE, "rms_norm_eps", "attention_bias"),
        *SWITCHED,
    ),
    norm_eps_key="rms_norm_eps",
    hidden_act="silu",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    defaults={
        "num_key_value_heads": 32,
        "head_dim": 128,
        "max_position_embeddings": 32768,
        **SWITCHED_DEFAULTS,
    },
    gguf=(
        GGUFLayout(
            "qwen3",
            modules={"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"},
        ),
    ),
)
