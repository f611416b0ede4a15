"""GLM-4 (0414): norms around both branches, neighbours rotated in half of each head, gate and up stored as one.

transformers: models/glm4
"""

from dataclasses import replace
from typing import Any

from xplm.config import DecoderConfig
from xplm.kernels.rope import NEIGHBOURS
from xplm.models.families.blocks import head_width, in_all_layers, read_llama_block
from xplm.models.families.family import COMMON, ROPE, SIZES, Family
from xplm.models.families.fields import Fields
from xplm.models.families.gguf import ROTATED, GGUFFile, GGUFLayout, read_rotated_share
from xplm.models.families.rope import read_rope, read_share, share_of, write_rope
from xplm.models.families.windows import FULL, require_layer_types
from xplm.specs import BlockSpec


def read_blocks(hf: Fields) -> tuple[BlockSpec, ...]:
    """Blocks from config.json."""
    require_layer_types(hf, FULL)
    rope = read_rope(hf, head_width(hf), read_share(hf, 0.5), pairs=NEIGHBOURS)
    bias = hf.flag("attention_bias", True)
    block = read_llama_block(hf, rope=rope, qkv_bias=bias, output_bias=False)
    around = replace(block, mixer_output_norm=block.norm, mlp_output_norm=block.norm)
    return in_all_layers(hf, around)


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    mixer, rope = config.blocks[0].mixer, config.ropes[0]
    return write_rope(rope) | {
        "partial_rotary_factor": share_of(rope.dim, mixer.head_dim),
        "attention_bias": mixer.qkv_bias,
    }


def read_gguf(file: GGUFFile) -> dict[str, Any]:
    """The share of a head that is rotated; biases are there where their tensors are."""
    return read_rotated_share(file) | {"attention_bias": file.has_bias("attn_q")}


GLM4 = Family(
    "glm4",
    "Glm4ForCausalLM",
    keys=(
        *(*COMMON, *SIZES, *ROPE),
        *("rms_norm_eps", "partial_rotary_factor", "attention_bias"),
    ),
    norm_eps_key="rms_norm_eps",
    hidden_act="silu",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    defaults={
        "num_key_value_heads": 2,
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1.5625e-7,
        "eos_token_id": [151329, 151336, 151338],
        "pad_token_id": 151329,
    },
    modules={
        "mlp.gate_proj": "mlp.gate_up_proj",
        "mlp.up_proj": "mlp.gate_up_proj",
    },
    gguf=(
        GGUFLayout(
            "glm4",
            keys=(ROTATED,),
            read=read_gguf,
            modules={
                "post_self_attn_layernorm": "post_attention_norm",
                "post_mlp_layernorm": "post_ffw_norm",
            },
            joined={"ffn_up": ("ffn_gate", "ffn_up")},
        ),
    ),
)
