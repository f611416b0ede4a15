"""Qwen3-MoE: Qwen3's attention, and routed experts in all or some layers.   transformers: models/qwen3_moe"""

from dataclasses import replace
from typing import Any

from xplm.config import DecoderConfig
from xplm.models.families.blocks import read_llama_block
from xplm.models.families.experts import (
    BALANCE,
    GGUF_COUNTS,
    GGUF_MODULES,
    GGUF_WIDTH,
    NUMBERED,
    SPARSE,
    read_balance,
    read_experts,
    read_gguf_counts,
    read_sparse_layers,
    routed_block,
    write_experts,
    write_gguf_counts,
    write_sparse_layers,
)
from xplm.models.families.family import COMMON, ROPE, SIZES, Family
from xplm.models.families.fields import Fields
from xplm.models.families.gguf import GGUFFile, GGUFLayout
from xplm.models.families.rope import write_rope
from xplm.models.families.windows import FULL, SLIDING, require_layer_types
from xplm.specs import BlockSpec, RMSNormSpec, RouterSpec

COUNT, WIDTH = "num_local_experts", "moe_intermediate_size"


def read_blocks(hf: Fields) -> tuple[BlockSpec, ...]:
    """Blocks from config.json."""
    bias, is_on = hf.flag("attention_bias"), hf.flag("use_sliding_window")
    window = hf.integer("sliding_window") if is_on and hf.get("sliding_window") else None
    require_layer_types(hf, FULL if window is None else SLIDING)
    dense = read_llama_block(
        hf,
        qkv_bias=bias,
        output_bias=bias,
        qk_norm=RMSNormSpec(hf.number("rms_norm_eps", 1e-6)),
        window=window,
    )
    by_sum = hf.flag("norm_topk_prob")
    router = RouterSpec("softmax", is_normalised=by_sum, balance=read_balance(hf))
    routed = replace(dense, mlp=read_experts(hf, router, count=COUNT, width=WIDTH))
    return tuple(routed if is_routed else dense for is_routed in read_sparse_layers(hf))


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    block, experts = routed_block(config.blocks)
    return {
        **write_rope(config.ropes[0]),
        **write_sparse_layers(config.blocks),
        **write_experts(experts, count=COUNT, width=WIDTH),
        "norm_topk_prob": experts.router.is_normalised,
        "attention_bias": block.mixer.qkv_bias,
        "sliding_window": block.mixer.window,
        "use_sliding_window": block.mixer.window is not None,
    }


def read_gguf(file: GGUFFile) -> dict[str, Any]:
    """Experts in all layers; llama.cpp divides their weights by their sum, whatever config.json said."""
    keys = {WIDTH: file.integer(GGUF_WIDTH), "norm_topk_prob": True}
    return read_gguf_counts(file, COUNT) | keys


def write_gguf(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these are read from."""
    experts = routed_block(config.blocks)[1]
    return write_gguf_counts(experts) | {GGUF_WIDTH: experts.intermediate_size}


QWEN3_MOE = Family(
    "qwen3_moe",
    "Qwen3MoeForCausalLM",
    keys=(
        *(*COMMON, *SIZES, *ROPE, "rms_norm_eps", "attention_bias"),
        *("use_sliding_window", "sliding_window", *SPARSE, *BALANCE),
        *(COUNT, "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob"),
    ),
    norm_eps_key="rms_norm_eps",
    hidden_act="silu",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    inert=("max_window_layers",),
    spelling={"num_experts": COUNT},
    aliases=("num_experts",),
    defaults={
        "num_key_value_heads": 4,
        "intermediate_size": 6144,
        "max_position_embeddings": 32768,
        "sliding_window": 4096,
        COUNT: 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "router_aux_loss_coef": 0.001,
    },
    modules=NUMBERED,
    gguf=(
        GGUFLayout(
            "qwen3moe",
            keys=(*GGUF_COUNTS, GGUF_WIDTH),
            read=read_gguf,
            write=write_gguf,
            modules={
                "self_attn.q_norm": "attn_q_norm",
                "self_attn.k_norm": "attn_k_norm",
                **GGUF_MODULES,
            },
        ),
    ),
)
