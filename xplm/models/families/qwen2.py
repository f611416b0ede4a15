"""Qwen2: Llama's block with biases of q, k and v, some layers with a window.   transformers: models/qwen2"""

from typing import Any

from xplm.config import DecoderConfig
from xplm.models.families.blocks import read_llama_block, with_windows
from xplm.models.families.family import COMMON, ROPE, SIZES, Family
from xplm.models.families.fields import Fields
from xplm.models.families.gguf import WINDOW, GGUFFile, GGUFLayout, write_window
from xplm.models.families.rope import write_rope
from xplm.models.families.windows import (
    SWITCHED,
    SWITCHED_DEFAULTS,
    read_switched_windows,
    write_switched_windows,
)
from xplm.specs import BlockSpec


def read_blocks(hf: Fields) -> tuple[BlockSpec, ...]:
    """Blocks from config.json."""
    block = read_llama_block(hf, qkv_bias=True, output_bias=False)
    return with_windows(block, read_switched_windows(hf))


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    return write_rope(config.ropes[0]) | write_switched_windows(config.blocks)


def claims_llama(file: GGUFFile) -> bool:
    """Whether a llama of a GGUF file is a Qwen2: q, k and v have biases and the output has none."""
    return file.has_bias("attn_q") and not file.has_bias("attn_output")


def read_llama(file: GGUFFile) -> dict[str, Any]:
    """The window of all layers, which a llama has and a qwen2 of a GGUF file does not."""
    window = file.integer(WINDOW, 0) or None
    is_on = window is not None
    return {"sliding_window": window, "use_sliding_window": is_on, "max_window_layers": 0}


QWEN2 = Family(
    "qwen2",
    "Qwen2ForCausalLM",
    keys=(
        *(*COMMON, *SIZES, *ROPE, "rms_norm_eps"),
        *SWITCHED,
    ),
    norm_eps_key="rms_norm_eps",
    hidden_act="silu",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    defaults={
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
        **SWITCHED_DEFAULTS,
    },
    gguf=(
        GGUFLayout("qwen2"),
        GGUFLayout(
            "llama",
            claims=claims_llama,
            keys=(WINDOW,),
            read=read_llama,
            write=write_window,
            has_interleaved_rows=True,
        ),
    ),
)
