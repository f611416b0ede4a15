"""Mistral: Llama's block without biases, with a sliding window.   transformers: models/mistral"""

from typing import Any

from xplm.config import DecoderConfig
from xplm.models.families.blocks import in_all_layers, read_llama_block
from xplm.models.families.family import COMMON, ROPE, SIZES, Family
from xplm.models.families.fields import Fields
from xplm.models.families.gguf import WINDOW, GGUFFile, GGUFLayout, write_window
from xplm.models.families.rope import write_rope
from xplm.models.families.windows import read_window
from xplm.specs import BlockSpec


def read_blocks(hf: Fields) -> tuple[BlockSpec, ...]:
    """Blocks from config.json."""
    block = read_llama_block(hf, qkv_bias=False, output_bias=False, window=read_window(hf))
    return in_all_layers(hf, block)


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    return write_rope(config.ropes[0]) | {"sliding_window": config.blocks[0].mixer.window}


def claims_gguf(file: GGUFFile) -> bool:
    """Whether a llama of a GGUF file is a Mistral: it has a window, and neither biases of q nor experts."""
    if file.has_bias("attn_q") or file.integer("expert_count", 0) > 0:
        return False
    return file.integer(WINDOW, 0) > 0


def read_gguf(file: GGUFFile) -> dict[str, Any]:
    """The window of all layers."""
    return {"sliding_window": file.integer(WINDOW, 0) or None}


MISTRAL = Family(
    "mistral",
    "MistralForCausalLM",
    keys=(*COMMON, *SIZES, *ROPE, "rms_norm_eps", "sliding_window"),
    norm_eps_key="rms_norm_eps",
    hidden_act="silu",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    defaults={
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    gguf=(
        GGUFLayout(
            "llama",
            claims=claims_gguf,
            keys=(WINDOW,),
            read=read_gguf,
            write=write_window,
            has_interleaved_rows=True,
        ),
    ),
)
