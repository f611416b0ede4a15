"""Gemma: Llama's block with gelu, norms that multiply by 1 + weight, and embeddings times the root of their width.

transformers: models/gemma
"""

from dataclasses import replace
from typing import Any

from xplm.config import DecoderConfig
from xplm.errors import ConfigError
from xplm.models.families.blocks import in_all_layers, read_llama_block
from xplm.models.families.family import COMMON, ROPE, SIZES, Family
from xplm.models.families.fields import Fields
from xplm.models.families.gguf import GGUFFile, GGUFLayout
from xplm.models.families.rope import write_rope
from xplm.models.families.windows import FULL, require_layer_types
from xplm.specs import BlockSpec, RMSNormSpec


def read_blocks(hf: Fields) -> tuple[BlockSpec, ...]:
    """Blocks from config.json."""
    require_layer_types(hf, FULL)
    require_causal(hf)
    bias = hf.flag("attention_bias")
    block = read_llama_block(as_tanh(hf), qkv_bias=bias, output_bias=bias)
    norm = RMSNormSpec(hf.number("rms_norm_eps", 1e-6), offset=1.0)
    return in_all_layers(hf, replace(block, norm=norm, mlp_norm=norm))


def require_causal(hf: Fields) -> None:
    """Refuse a Gemma whose tokens see those after them."""
    if hf.flag("use_bidirectional_attention"):
        raise ConfigError("use_bidirectional_attention must be false or left out; got True")


def as_tanh(hf: Fields) -> Fields:
    """The keys with the tanh form for "gelu": files of the first release say that, and mean this."""
    is_old = hf.get("hidden_act") == "gelu"
    return hf.but(hidden_act="gelu_pytorch_tanh") if is_old else hf


def read_scales(hf: Fields) -> dict[str, Any]:
    """Embeddings are multiplied by sqrt(C)."""
    return {"embedding_scale": hf.integer("hidden_size") ** 0.5}


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    return write_rope(config.ropes[0]) | {"attention_bias": config.blocks[0].mixer.qkv_bias}


def read_gguf(file: GGUFFile) -> dict[str, Any]:
    """Biases are there where their tensors are."""
    return {"attention_bias": file.has_bias("attn_q")}


GEMMA = Family(
    "gemma",
    "GemmaForCausalLM",
    keys=(
        *(*COMMON, *SIZES, *ROPE),
        *("rms_norm_eps", "attention_bias", "use_bidirectional_attention"),
    ),
    norm_eps_key="rms_norm_eps",
    hidden_act="gelu_pytorch_tanh",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    read_scales=read_scales,
    inert=("hidden_activation",),  # of older files; transformers reads hidden_act
    defaults={
        "num_key_value_heads": 16,
        "head_dim": 256,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
    },
    gguf=(GGUFLayout("gemma", read=read_gguf, norm_offset=1.0, has_head=False),),
)
