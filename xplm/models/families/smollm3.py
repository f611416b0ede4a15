"""SmolLM3: Llama's block, every fourth without RoPE; those may have a window.   transformers: models/smollm3"""

from dataclasses import replace
from reprlib import repr as shown  # a value of any length, cut short
from typing import Any

from xplm.config import DecoderConfig
from xplm.errors import ConfigError
from xplm.models.families.blocks import read_llama_block, with_windows
from xplm.models.families.family import COMMON, ROPE, SIZES, Family
from xplm.models.families.fields import Fields
from xplm.models.families.gguf import GGUFFile, GGUFLayout
from xplm.models.families.rope import write_rope
from xplm.models.families.windows import FULL, SLIDING, read_layer_types, write_switched_windows
from xplm.specs import BlockSpec

NO_ROPE = "no_rope_layers"  # for each layer, 1 if it is rotated


def read_blocks(hf: Fields) -> tuple[BlockSpec, ...]:
    """Blocks from config.json."""
    bias, mlp_bias = hf.flag("attention_bias"), hf.flag("mlp_bias")
    block = read_llama_block(hf, qkv_bias=bias, output_bias=bias, mlp_bias=mlp_bias)
    rotated = _read_rotated(hf)
    is_on = hf.flag("use_sliding_window") and hf.get("sliding_window") is not None
    kinds = read_layer_types(hf) or [SLIDING if is_on and not turns else FULL for turns in rotated]
    window = hf.integer("sliding_window") if SLIDING in kinds else None
    blocks = with_windows(block, [window if kind == SLIDING else None for kind in kinds])
    return tuple(
        own if is_rotated else replace(own, mixer=replace(own.mixer, rope=None))
        for own, is_rotated in zip(blocks, rotated, strict=True)
    )


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    mixers = [block.mixer for block in config.blocks]
    keys = write_rope(*config.ropes[:1]) | write_switched_windows(config.blocks)
    return keys | {
        NO_ROPE: [int(mixer.rope is not None) for mixer in mixers],
        "attention_bias": mixers[0].qkv_bias,
        "mlp_bias": config.blocks[0].mlp.bias,
    }


def read_gguf(file: GGUFFile) -> dict[str, Any]:
    """Biases are there where their tensors are; llama.cpp rotates all but every fourth layer."""
    return {"attention_bias": file.has_bias("attn_q"), "mlp_bias": file.has_bias("ffn_up")}


def _read_rotated(hf: Fields) -> list[bool]:
    """Of each layer, whether it is rotated: `no_rope_layers`, or all but every `no_rope_layer_interval`-th."""
    layers, given = hf.integer("num_hidden_layers"), hf.get(NO_ROPE)
    if given is None:
        interval = hf.integer("no_rope_layer_interval")
        return [(layer + 1) % interval != 0 for layer in range(layers)]
    if not isinstance(given, list) or len(given) < layers or any(g not in (0, 1) for g in given):
        raise ConfigError(
            f"{NO_ROPE} has 0 or 1 for each of the {layers} layers; got {shown(given)}"
        )
    return [bool(is_rotated) for is_rotated in given[:layers]]


SMOLLM3 = Family(
    "smollm3",
    "SmolLM3ForCausalLM",
    keys=(
        *(*COMMON, *SIZES, *ROPE, "rms_norm_eps", "attention_bias", "mlp_bias"),
        *("use_sliding_window", "sliding_window", NO_ROPE, "no_rope_layer_interval"),
    ),
    norm_eps_key="rms_norm_eps",
    hidden_act="silu",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    defaults={
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "rope_theta": 2e6,
        "no_rope_layer_interval": 4,
        "tie_word_embeddings": True,
        "bos_token_id": 128000,
        "eos_token_id": 128001,
        "pad_token_id": 128004,
    },
    gguf=(GGUFLayout("smollm3", read=read_gguf, has_interleaved_rows=True),),
)
