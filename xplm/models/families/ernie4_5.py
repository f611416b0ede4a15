"""ERNIE 4.5: Llama's block, neighbours rotated together, biases everywhere or not at all.

transformers: models/ernie4_5
"""

from typing import Any

from xplm.config import DecoderConfig
from xplm.kernels.rope import NEIGHBOURS
from xplm.models.families.blocks import head_width, in_all_layers, read_llama_block
from xplm.models.families.family import COMMON, ROPE, SIZES, Family
from xplm.models.families.fields import Fields
from xplm.models.families.gguf import GGUFFile, GGUFLayout
from xplm.models.families.rope import read_rope, write_rope
from xplm.models.families.windows import FULL, require_layer_types
from xplm.specs import BlockSpec


def read_blocks(hf: Fields) -> tuple[BlockSpec, ...]:
    """Blocks from config.json."""
    require_layer_types(hf, FULL)
    bias = hf.flag("use_bias")
    rope = read_rope(hf, head_width(hf), pairs=NEIGHBOURS)
    block = read_llama_block(hf, rope=rope, qkv_bias=bias, output_bias=bias, mlp_bias=bias)
    return in_all_layers(hf, block)


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    return write_rope(config.ropes[0]) | {"use_bias": config.blocks[0].mlp.bias}


def read_gguf(file: GGUFFile) -> dict[str, Any]:
    """Biases are there where their tensors are."""
    return {"use_bias": file.has_bias("attn_q")}


ERNIE4_5 = Family(
    "ernie4_5",
    "Ernie4_5ForCausalLM",
    keys=(*COMMON, *SIZES, *ROPE, "rms_norm_eps", "use_bias"),
    norm_eps_key="rms_norm_eps",
    hidden_act="silu",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    defaults={
        "num_key_value_heads": 2,
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    },
    gguf=(GGUFLayout("ernie4_5", read=read_gguf),),
)
