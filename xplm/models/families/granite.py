"""Granite: Llama's block, with factors of embeddings, scores, branches and logits.   transformers: models/granite"""

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
from xplm.specs import BlockSpec

SCALES = {
    "attention_multiplier": "attention.scale",
    "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale",
    "logits_scaling": "logit_scale",
}
"""Keys of config.json -> of a GGUF file."""

HAS_ROPE = "rope.scaling.finetuned"


def read_blocks(hf: Fields) -> tuple[BlockSpec, ...]:
    """Blocks from config.json."""
    require_layer_types(hf, FULL)
    bias, mlp_bias = hf.flag("attention_bias"), hf.flag("mlp_bias")
    scale = hf.number("attention_multiplier", 1.0)
    block = read_llama_block(hf, qkv_bias=bias, output_bias=bias, mlp_bias=mlp_bias, scale=scale)
    return in_all_layers(hf, replace(block, branch_scale=hf.number("residual_multiplier", 1.0)))


def read_scales(hf: Fields) -> dict[str, Any]:
    """Of embeddings and logits; these are divided by theirs."""
    return {
        "embedding_scale": hf.number("embedding_multiplier", 1.0),
        "logit_scale": 1.0 / hf.number("logits_scaling", 1.0),
    }


def write_scales(config: DecoderConfig) -> dict[str, float]:
    """The four keys of config.json."""
    block = config.blocks[0]
    return {
        "attention_multiplier": block.mixer.scale,
        "embedding_multiplier": config.embedding_scale,
        "residual_multiplier": block.branch_scale,
        "logits_scaling": 1.0 / config.logit_scale,
    }


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    block = config.blocks[0]
    biases = {"attention_bias": block.mixer.qkv_bias, "mlp_bias": block.mlp.bias}
    return write_rope(config.ropes[0]) | biases | write_scales(config)


def read_gguf(file: GGUFFile) -> dict[str, Any]:
    """The four factors, and biases where their tensors are.

    Raises:
        ConfigError: the file turns RoPE off, which llama.cpp has a Granite do by a key that tells others nothing.
    """
    if file.metadata.get(f"{file.architecture}.{HAS_ROPE}") is False:
        raise ConfigError(
            f"a granite must have rotary positions; {file.architecture}.{HAS_ROPE} = False takes them away"
        )
    D = file.head_dim
    defaults = {"attention_multiplier": D**-0.5 if D > 0 else 1.0}
    scales = {ours: file.number(key, defaults.get(ours, 1.0)) for ours, key in SCALES.items()}
    biases = {"attention_bias": file.has_bias("attn_q"), "mlp_bias": file.has_bias("ffn_up")}
    return scales | biases


def write_gguf(config: DecoderConfig) -> dict[str, Any]:
    """The four factors."""
    return {SCALES[ours]: value for ours, value in write_scales(config).items()}


GRANITE = Family(
    "granite",
    "GraniteForCausalLM",
    keys=(*COMMON, *SIZES, *ROPE, "rms_norm_eps", "attention_bias", "mlp_bias", *SCALES),
    norm_eps_key="rms_norm_eps",
    hidden_act="silu",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    read_scales=read_scales,
    defaults={"bos_token_id": 1, "eos_token_id": 2},
    gguf=(
        GGUFLayout(
            "granite",
            keys=(*SCALES.values(), HAS_ROPE),
            read=read_gguf,
            write=write_gguf,
            has_interleaved_rows=True,
        ),
    ),
)
