"""Llama.   transformers: models/llama"""

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
    bias, mlp_bias = hf.flag("attention_bias"), hf.flag("mlp_bias")
    block = read_llama_block(hf, qkv_bias=bias, output_bias=bias, mlp_bias=mlp_bias)
    return in_all_layers(hf, block)


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    block = config.blocks[0]
    biases = {"attention_bias": block.mixer.qkv_bias, "mlp_bias": block.mlp.bias}
    return write_rope(config.ropes[0]) | biases


def read_gguf(file: GGUFFile) -> dict[str, Any]:
    """Biases are there where their tensors are."""
    return {"attention_bias": file.has_bias("attn_q"), "mlp_bias": file.has_bias("ffn_up")}


LLAMA = Family(
    "llama",
    "LlamaForCausalLM",
    keys=(*COMMON, *SIZES, *ROPE, "rms_norm_eps", "attention_bias", "mlp_bias"),
    norm_eps_key="rms_norm_eps",
    hidden_act="silu",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    inert=("pretraining_tp",),
    defaults={"bos_token_id": 1, "eos_token_id": 2},
    gguf=(GGUFLayout("llama", read=read_gguf, has_interleaved_rows=True),),
)
