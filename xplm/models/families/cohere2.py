"""Command R7B and A: parallel branches behind one norm; layers with a window are rotated, others are not.

transformers: models/cohere2
"""

from typing import Any

from xplm.config import DecoderConfig
from xplm.kernels.rope import NEIGHBOURS
from xplm.models.families.activations import read_mlp
from xplm.models.families.blocks import head_width, read_attention, with_rope_in_windows
from xplm.models.families.family import COMMON, ROPE, SIZES, Family
from xplm.models.families.fields import Fields
from xplm.models.families.gguf import (
    LAYER_NORM_EPS,
    PATTERN,
    WINDOW,
    GGUFFile,
    GGUFLayout,
    read_windows_by_layer,
    write_windows_by_layer,
)
from xplm.models.families.rope import read_rope, write_rope
from xplm.models.families.windows import read_windows_by_pattern, write_windows_by_layer_type
from xplm.specs import BlockSpec, LayerNormSpec

LOGIT_SCALE = "logit_scale"


def read_blocks(hf: Fields) -> tuple[BlockSpec, ...]:
    """Blocks from config.json."""
    bias = hf.flag("attention_bias")
    attention = read_attention(
        hf,
        rope=read_rope(hf, head_width(hf), pairs=NEIGHBOURS),
        qkv_bias=bias,
        output_bias=bias,
    )
    mlp = read_mlp(hf, is_gated=True, bias=False)
    norm = LayerNormSpec(hf.number("layer_norm_eps", 1e-5), has_bias=False)
    block = BlockSpec(attention, mlp, norm, mlp_norm=None, is_parallel=True)
    return with_rope_in_windows(block, read_windows_by_pattern(hf))


def read_scales(hf: Fields) -> dict[str, Any]:
    """The factor of the logits."""
    return {LOGIT_SCALE: hf.number(LOGIT_SCALE)}


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    keys = write_rope(*config.ropes[:1]) | write_windows_by_layer_type(config.blocks)
    facts = {"attention_bias": config.blocks[0].mixer.qkv_bias, LOGIT_SCALE: config.logit_scale}
    return keys | facts


def read_gguf(file: GGUFFile) -> dict[str, Any]:
    """The windows, the factor of the logits, and biases where their tensors are."""
    facts = {"attention_bias": file.has_bias("attn_q"), LOGIT_SCALE: file.number(LOGIT_SCALE)}
    return read_windows_by_layer(file) | facts


def write_gguf(config: DecoderConfig) -> dict[str, Any]:
    """The window, of all layers but every fourth, and the factor of the logits."""
    return {
        WINDOW: write_windows_by_layer(config)[WINDOW],
        LOGIT_SCALE: config.logit_scale,
    }


COHERE2 = Family(
    "cohere2",
    "Cohere2ForCausalLM",
    keys=(
        *(*COMMON, *SIZES, *ROPE, "layer_norm_eps", "attention_bias", LOGIT_SCALE),
        *("sliding_window", "sliding_window_pattern"),
    ),
    norm_eps_key="layer_norm_eps",
    hidden_act="silu",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    read_scales=read_scales,
    defaults={
        LOGIT_SCALE: 0.0625,
        "max_position_embeddings": 8192,
        "sliding_window": 4096,
        "sliding_window_pattern": 4,
        "tie_word_embeddings": True,
        "bos_token_id": 5,
        "eos_token_id": 255001,
        "pad_token_id": 0,
    },
    gguf=(
        GGUFLayout(
            "cohere2",
            norm_eps_key=LAYER_NORM_EPS,
            keys=(WINDOW, PATTERN, LOGIT_SCALE),
            read=read_gguf,
            write=write_gguf,
            has_head=False,
        ),
    ),
)
