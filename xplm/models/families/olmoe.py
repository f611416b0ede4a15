"""OLMoE: norms over all heads of q and k, bounds on q, k and v, and routed experts.   transformers: models/olmoe"""

from dataclasses import replace
from typing import Any

from xplm.config import DecoderConfig
from xplm.models.families.blocks import in_all_layers, read_llama_block
from xplm.models.families.experts import (
    BALANCE,
    GGUF_COUNTS,
    GGUF_MODULES,
    NUMBERED,
    read_balance,
    read_experts,
    read_gguf_counts,
    routed_block,
    write_experts,
    write_gguf_counts,
)
from xplm.models.families.family import COMMON, ROPE, SIZES, Family
from xplm.models.families.fields import Fields
from xplm.models.families.gguf import GGUFFile, GGUFLayout
from xplm.models.families.rope import write_rope
from xplm.models.families.windows import FULL, require_layer_types
from xplm.specs import BlockSpec, RMSNormSpec, RouterSpec

COUNT, WIDTH = "num_experts", "intermediate_size"


def read_blocks(hf: Fields) -> tuple[BlockSpec, ...]:
    """Blocks from config.json."""
    require_layer_types(hf, FULL)
    bias, clip = hf.flag("attention_bias"), hf.get("clip_qkv")
    block = read_llama_block(
        hf,
        qkv_bias=bias,
        output_bias=bias,
        qk_norm=RMSNormSpec(hf.number("rms_norm_eps", 1e-5)),
        qk_norm_over="all heads",
        clip=None if clip is None else hf.number("clip_qkv"),
    )
    router = RouterSpec(
        "softmax", is_normalised=hf.flag("norm_topk_prob"), balance=read_balance(hf)
    )
    experts = read_experts(hf, router, count=COUNT, width=WIDTH)
    return in_all_layers(hf, replace(block, mlp=experts))


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    block, experts = routed_block(config.blocks)
    return {
        **write_rope(config.ropes[0]),
        **write_experts(experts, count=COUNT, width=WIDTH),
        "norm_topk_prob": experts.router.is_normalised,
        "attention_bias": block.mixer.qkv_bias,
        "clip_qkv": block.mixer.clip,
    }


def read_gguf(file: GGUFFile) -> dict[str, Any]:
    """Experts, their weights as they are; llama.cpp bounds no q, k and v here."""
    return read_gguf_counts(file, COUNT)


def write_gguf(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these are read from."""
    return write_gguf_counts(routed_block(config.blocks)[1])


OLMOE = Family(
    "olmoe",
    "OlmoeForCausalLM",
    keys=(
        *(*COMMON, *SIZES, *ROPE, "rms_norm_eps", "attention_bias", "clip_qkv", *BALANCE),
        *("num_experts", "num_experts_per_tok", "norm_topk_prob"),
    ),
    norm_eps_key="rms_norm_eps",
    hidden_act="silu",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    spelling={"num_local_experts": "num_experts"},
    aliases=("num_local_experts",),
    defaults={
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "router_aux_loss_coef": 0.01,
        "pad_token_id": 1,
        "eos_token_id": 50279,
    },
    modules=NUMBERED,
    gguf=(
        GGUFLayout(
            "olmoe",
            keys=GGUF_COUNTS,
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
