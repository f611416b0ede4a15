"""Nemotron: LayerNorms that multiply by 1 + weight, half of each head rotated, an MLP of squared relu without a gate.

transformers: models/nemotron
"""

from typing import Any

from xplm.config import DecoderConfig
from xplm.models.families.activations import read_mlp
from xplm.models.families.blocks import head_width, in_all_layers, read_attention
from xplm.models.families.family import COMMON, ROPE, SIZES, Family
from xplm.models.families.fields import Fields
from xplm.models.families.gguf import (
    LAYER_NORM_EPS,
    ROTATED,
    GGUFFile,
    GGUFLayout,
    read_rotated_share,
)
from xplm.models.families.rope import read_rope, read_share, share_of, write_rope
from xplm.models.families.windows import FULL, require_layer_types
from xplm.specs import BlockSpec, LayerNormSpec


def read_blocks(hf: Fields) -> tuple[BlockSpec, ...]:
    """Blocks from config.json."""
    require_layer_types(hf, FULL)
    bias = hf.flag("attention_bias")
    norm = LayerNormSpec(hf.number("norm_eps", 1e-5), offset=1.0)
    attention = read_attention(
        hf,
        rope=read_rope(hf, head_width(hf), read_share(hf, 0.5)),
        qkv_bias=bias,
        output_bias=bias,
    )
    mlp = read_mlp(hf, is_gated=False, bias=hf.flag("mlp_bias"))
    return in_all_layers(hf, BlockSpec(attention, mlp, norm, norm))


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    block, rope = config.blocks[0], config.ropes[0]
    return write_rope(rope) | {
        "partial_rotary_factor": share_of(rope.dim, block.mixer.head_dim),
        "attention_bias": block.mixer.qkv_bias,
        "mlp_bias": block.mlp.bias,
    }


def read_gguf(file: GGUFFile) -> dict[str, Any]:
    """The share of a head that is rotated, and biases where their tensors are."""
    biases = {"attention_bias": file.has_bias("attn_q"), "mlp_bias": file.has_bias("ffn_up")}
    return read_rotated_share(file) | biases


NEMOTRON = Family(
    "nemotron",
    "NemotronForCausalLM",
    keys=(
        *(*COMMON, *SIZES, *ROPE),
        *("norm_eps", "partial_rotary_factor", "attention_bias", "mlp_bias"),
    ),
    norm_eps_key="norm_eps",
    hidden_act="relu2",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    defaults={"max_position_embeddings": 4096, "bos_token_id": 2, "eos_token_id": 3},
    gguf=(
        GGUFLayout(
            "nemotron",
            norm_eps_key=LAYER_NORM_EPS,
            keys=(ROTATED,),
            read=read_gguf,
            norm_offset=1.0,
            has_own_head=True,
        ),
    ),
)
