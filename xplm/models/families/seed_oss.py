"""Seed-OSS: Llama's block, with biases of q, k and v and others where its file asks.   transformers: models/seed_oss"""

from typing import Any

from xplm.config import DecoderConfig
from xplm.models.families.blocks import in_all_layers, read_llama_block
from xplm.models.families.family import COMMON, ROPE, SIZES, Family
from xplm.models.families.fields import Fields
from xplm.models.families.gguf import GGUFFile, GGUFLayout
from xplm.models.families.rope import write_rope
from xplm.models.families.windows import FULL, require_layer_types
from xplm.specs import BlockSpec


def read_blocks(hf: Fields) -> tuple[BlockSpec, ...]:
    """Blocks from config.json."""
    require_layer_types(hf, FULL)
    block = read_llama_block(
        hf,
        qkv_bias=hf.flag("attention_bias", True),
        output_bias=hf.flag("attention_out_bias"),
        mlp_bias=hf.flag("mlp_bias"),
    )
    return in_all_layers(hf, block)


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    block = config.blocks[0]
    return write_rope(config.ropes[0]) | {
        "attention_bias": block.mixer.qkv_bias,
        "attention_out_bias": block.mixer.output_bias,
        "mlp_bias": block.mlp.bias,
    }


def read_gguf(file: GGUFFile) -> dict[str, Any]:
    """Biases are there where their tensors are."""
    return {
        "attention_bias": file.has_bias("attn_q"),
        "attention_out_bias": file.has_bias("attn_output"),
        "mlp_bias": file.has_bias("ffn_up"),
    }


SEED_OSS = Family(
    "seed_oss",
    "SeedOssForCausalLM",
    keys=(
        *(*COMMON, *SIZES, *ROPE, "rms_norm_eps"),
        *("attention_bias", "attention_out_bias", "mlp_bias"),
    ),
    norm_eps_key="rms_norm_eps",
    hidden_act="silu",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    inert=("pretraining_tp", "residual_dropout"),
    defaults={
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 524288,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    },
    gguf=(
        GGUFLayout(
            "seed_oss",
            read=read_gguf,
            modules={"post_attention_layernorm": "post_attention_norm"},
        ),
    ),
)
