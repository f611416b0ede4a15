"""GLM-4.5: part of each head rotated, dense layers, then experts scored by sigmoids beside one that all tokens take.

transformers: models/glm4_moe
"""

from typing import Any

from xplm.config import DecoderConfig
from xplm.models.families.blocks import head_width, read_llama_block
from xplm.models.families.experts import NUMBERED
from xplm.models.families.family import COMMON, ROPE, SIZES, Family
from xplm.models.families.fields import Fields
from xplm.models.families.gguf import ROTATED, GGUFFile, GGUFLayout, read_rotated_share
from xplm.models.families.rope import read_rope, read_share, share_of, write_rope
from xplm.models.families.shared_experts import (
    COUNT,
    GGUF_NORMALISED,
    GGUF_SHARED,
    SHARED,
    SHARED_MODULES,
    SHARED_TENSORS,
    SIGMOID,
    is_normalised,
    read_dense_first,
    read_gguf_dense_first,
    read_scored_experts,
    write_dense_first,
    write_gguf_dense_first,
)
from xplm.models.families.windows import FULL, require_layer_types
from xplm.specs import BlockSpec, RMSNormSpec


def read_blocks(hf: Fields) -> tuple[BlockSpec, ...]:
    """Blocks from config.json."""
    require_layer_types(hf, FULL)
    norm = RMSNormSpec(hf.number("rms_norm_eps", 1e-5))
    dense = read_llama_block(
        hf,
        qkv_bias=hf.flag("attention_bias"),
        output_bias=False,
        qk_norm=norm if hf.flag("use_qk_norm") else None,
        rope=read_rope(hf, head_width(hf), read_share(hf, 0.5)),
    )
    return read_dense_first(hf, dense, read_scored_experts, 1)


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    mixer, rope = config.blocks[0].mixer, config.ropes[0]
    return {
        **write_rope(rope),
        **write_dense_first(config.blocks),
        "norm_topk_prob": is_normalised(config.blocks),
        "partial_rotary_factor": share_of(rope.dim, mixer.head_dim),
        "attention_bias": mixer.qkv_bias,
        "use_qk_norm": mixer.qk_norm is not None,
    }


def read_gguf(file: GGUFFile) -> dict[str, Any]:
    """The rotated share, experts, and what the tensors say."""
    return {
        **read_rotated_share(file),
        **read_gguf_dense_first(file, SIGMOID),
        "norm_topk_prob": file.flag(GGUF_NORMALISED, False),
        "attention_bias": file.has_bias("attn_q"),
        "use_qk_norm": "blk.0.attn_q_norm.weight" in file.shapes,
    }


def write_gguf(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these are read from."""
    experts = write_gguf_dense_first(config.blocks, SIGMOID)
    return experts | {GGUF_NORMALISED: is_normalised(config.blocks)}


GLM4_MOE = Family(
    "glm4_moe",
    "Glm4MoeForCausalLM",
    keys=(
        *(*COMMON, *SIZES, *ROPE, "rms_norm_eps", "attention_bias", "use_qk_norm"),
        *("partial_rotary_factor", "norm_topk_prob", *SHARED),
    ),
    norm_eps_key="rms_norm_eps",
    hidden_act="silu",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    inert=("output_router_logits", "num_nextn_predict_layers"),
    spelling={"num_local_experts": COUNT, "num_mtp_layers": "num_nextn_predict_layers"},
    aliases=("num_local_experts", "num_mtp_layers"),
    defaults={
        "num_key_value_heads": 8,
        "intermediate_size": 10944,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "n_routed_experts": 128,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 1408,
    },
    modules=NUMBERED,
    gguf=(
        GGUFLayout(
            "glm4moe",
            keys=(ROTATED, *GGUF_SHARED, GGUF_NORMALISED),
            read=read_gguf,
            write=write_gguf,
            modules={
                **SHARED_MODULES,
                "post_attention_layernorm": "post_attention_norm",
                "self_attn.q_norm": "attn_q_norm",
                "self_attn.k_norm": "attn_k_norm",
            },
            tensors=SHARED_TENSORS,
        ),
    ),
)
