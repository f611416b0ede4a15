"""Phi-3 and 4: Llama's block, q, k, v and gate, up stored as one, longrope in the long models.

transformers: models/phi3
"""

from collections.abc import Mapping
from typing import Any

from xplm.config import DecoderConfig
from xplm.errors import ConfigError
from xplm.models.families.blocks import head_width, in_all_layers, read_llama_block
from xplm.models.families.family import COMMON, ROPE, SIZES, Family
from xplm.models.families.fields import Fields
from xplm.models.families.gguf import (
    JOINED,
    ROTATED,
    WINDOW,
    GGUFFile,
    GGUFLayout,
    read_rotated_share,
    write_window,
)
from xplm.models.families.rope import read_rope, read_share, share_of, write_rope
from xplm.models.families.windows import read_window
from xplm.specs import BlockSpec

TRAINED_LENGTH = "original_max_position_embeddings"
DEFAULT_TRAINED_LENGTH = 4096
OLD_NAMES = ("su", "yarn")  # of longrope


def respell(hf: Mapping[str, Any]) -> Mapping[str, Any]:
    """The types su and yarn mean longrope."""
    for key in ("rope_scaling", "rope_parameters"):
        given = hf.get(key)
        if isinstance(given, Mapping) and given.get("rope_type", given.get("type")) in OLD_NAMES:
            others = {name: value for name, value in given.items() if name != "type"}
            hf = {**hf, key: {**others, "rope_type": "longrope"}}
    return hf


def read_blocks(hf: Fields) -> tuple[BlockSpec, ...]:
    """Blocks from config.json."""
    D = head_width(hf)
    rope = read_rope(hf, D, read_share(hf, 1.0))
    if rope.rope_type not in ("default", "longrope"):
        raise ConfigError(f"RoPE of a phi3 is of the type longrope; got {rope.rope_type}")
    block = read_llama_block(
        hf, rope=rope, qkv_bias=False, output_bias=False, window=read_window(hf)
    )
    return in_all_layers(hf, block)


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    mixer, rope = config.blocks[0].mixer, config.ropes[0]
    return write_rope(rope) | {
        TRAINED_LENGTH: rope.original_max_position_embeddings or DEFAULT_TRAINED_LENGTH,
        "partial_rotary_factor": share_of(rope.dim, mixer.head_dim),
        "sliding_window": mixer.window,
    }


def read_gguf(file: GGUFFile) -> dict[str, Any]:
    """The share of a head that is rotated, the trained length and the window of all layers."""
    trained = file.integer("rope.scaling.original_context_length", DEFAULT_TRAINED_LENGTH)
    window = file.integer(WINDOW, 0) or None
    return read_rotated_share(file) | {TRAINED_LENGTH: trained, "sliding_window": window}


PHI3 = Family(
    "phi3",
    "Phi3ForCausalLM",
    keys=(
        *(*COMMON, *SIZES, *ROPE),
        *("rms_norm_eps", "partial_rotary_factor", "sliding_window"),
    ),
    norm_eps_key="rms_norm_eps",
    hidden_act="silu",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    respell=respell,
    inert=("resid_pdrop", "embd_pdrop"),
    defaults={
        TRAINED_LENGTH: DEFAULT_TRAINED_LENGTH,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": 32000,
        "pad_token_id": 32000,
    },
    modules={
        "self_attn.q_proj": "self_attn.qkv_proj",
        "self_attn.k_proj": "self_attn.qkv_proj",
        "self_attn.v_proj": "self_attn.qkv_proj",
        "mlp.gate_proj": "mlp.gate_up_proj",
        "mlp.up_proj": "mlp.gate_up_proj",
    },
    gguf=(
        GGUFLayout(
            "phi3",
            keys=(ROTATED, WINDOW),
            read=read_gguf,
            write=write_window,
            joined={**JOINED, "ffn_up": ("ffn_gate", "ffn_up")},
        ),
    ),
)
