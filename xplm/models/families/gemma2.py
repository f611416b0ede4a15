"""Gemma 2: Gemma's block with norms of outputs too, a window in every other layer, and caps of scores and logits.

transformers: models/gemma2
"""

from dataclasses import replace
from typing import Any

from xplm.config import DecoderConfig
from xplm.models.families.blocks import read_llama_block, with_windows
from xplm.models.families.family import COMMON, ROPE, SIZES, Family
from xplm.models.families.fields import Fields
from xplm.models.families.gemma import read_scales as read_embedding_scale
from xplm.models.families.gemma import require_causal
from xplm.models.families.gguf import WINDOW, GGUFFile, GGUFLayout, write_windows_by_layer
from xplm.models.families.rope import write_rope
from xplm.models.families.windows import read_windows_by_pattern, write_windows_by_layer_type
from xplm.specs import BlockSpec, RMSNormSpec

SCALAR = "query_pre_attn_scalar"
SCORE_CAP, LOGIT_CAP = "attn_logit_softcapping", "final_logit_softcapping"  # in GGUF files too

MODULES = {
    "post_self_attn_layernorm": "post_attention_layernorm",
    "post_attention_layernorm": "pre_feedforward_layernorm",
    "post_mlp_layernorm": "post_feedforward_layernorm",
}
"""Where files of Gemma 2 and 3 store the norms behind the first."""

GGUF_MODULES = {
    "post_self_attn_layernorm": "post_attention_norm",
    "post_mlp_layernorm": "post_ffw_norm",
}

DEFAULTS = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "tie_word_embeddings": True,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "sliding_window": 4096,
    SCALAR: 256,
}

KEYS = (
    *(*COMMON, *SIZES, *ROPE, "hidden_activation", "rms_norm_eps", "attention_bias"),
    *("use_bidirectional_attention", "sliding_window", SCALAR, LOGIT_CAP),
)


def read_block(hf: Fields, **facts: Any) -> BlockSpec:
    """One block from config.json: norms around both branches, and scores divided by sqrt(`query_pre_attn_scalar`)."""
    require_causal(hf)
    bias = hf.flag("attention_bias")
    own = {"qkv_bias": bias, "output_bias": bias, "scale": hf.number(SCALAR) ** -0.5}
    norm = read_norm(hf)
    block = read_llama_block(hf, **own, **facts)
    return replace(block, norm=norm, mlp_norm=norm, mixer_output_norm=norm, mlp_output_norm=norm)


def read_norm(hf: Fields) -> RMSNormSpec:
    """The norm of all places."""
    return RMSNormSpec(hf.number("rms_norm_eps", 1e-6), offset=1.0)


def read_cap(hf: Fields, key: str) -> float | None:
    """A cap; None where the key is null."""
    return None if hf.get(key) is None else hf.number(key)


def read_blocks(hf: Fields) -> tuple[BlockSpec, ...]:
    """Blocks from config.json."""
    block = read_block(hf, cap=read_cap(hf, SCORE_CAP))
    return with_windows(block, read_windows_by_pattern(hf.but(sliding_window_pattern=2)))


def read_scales(hf: Fields) -> dict[str, Any]:
    """Embeddings are multiplied by sqrt(C), and logits capped."""
    return read_embedding_scale(hf) | {"logit_cap": read_cap(hf, LOGIT_CAP)}


def write_facts(config: DecoderConfig) -> dict[str, Any]:
    """The keys that Gemma 2 and 3 have beside those of RoPE and windows."""
    mixer = config.blocks[0].mixer
    scalar = mixer.scale**-2
    return {
        "attention_bias": mixer.qkv_bias,
        SCALAR: round(scalar) if round(scalar) ** -0.5 == mixer.scale else scalar,
        LOGIT_CAP: config.logit_cap,
    }


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    keys = write_rope(config.ropes[0]) | write_windows_by_layer_type(config.blocks)
    return keys | write_facts(config) | {SCORE_CAP: config.blocks[0].mixer.cap}


def read_scalar(file: GGUFFile, largest: int) -> dict[str, Any]:
    """`query_pre_attn_scalar`, which llama.cpp takes for the model's largest size, known by its layers, as C / H."""
    heads = file.integer("attention.head_count")
    is_largest = file.integer("block_count") == largest
    return {SCALAR: file.integer("embedding_length") // heads if is_largest else file.head_dim}


def read_gguf(file: GGUFFile) -> dict[str, Any]:
    """The window of every other layer, both caps, the scale of scores, and biases where their tensors are."""
    return {
        "sliding_window": file.integer(WINDOW, 4096),
        SCORE_CAP: file.number(SCORE_CAP, 50.0),
        LOGIT_CAP: file.number(LOGIT_CAP, 30.0),
        "attention_bias": file.has_bias("attn_q"),
        **read_scalar(file, largest=46),
    }


def write_gguf(config: DecoderConfig) -> dict[str, Any]:
    """The window and both caps."""
    caps = {SCORE_CAP: config.blocks[0].mixer.cap, LOGIT_CAP: config.logit_cap}
    return {WINDOW: write_windows_by_layer(config)[WINDOW], **caps}


GEMMA2 = Family(
    "gemma2",
    "Gemma2ForCausalLM",
    keys=(*KEYS, SCORE_CAP),
    norm_eps_key="rms_norm_eps",
    hidden_act="gelu_pytorch_tanh",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    read_scales=read_scales,
    inert=("cache_implementation",),
    spelling={"hidden_act": "hidden_activation"},
    defaults=DEFAULTS | {"max_position_embeddings": 8192, SCORE_CAP: 50.0, LOGIT_CAP: 30.0},
    modules=MODULES,
    gguf=(
        GGUFLayout(
            "gemma2",
            keys=(WINDOW, SCORE_CAP, LOGIT_CAP),
            read=read_gguf,
            write=write_gguf,
            modules=GGUF_MODULES,
            norm_offset=1.0,
            has_head=False,
        ),
    ),
)
