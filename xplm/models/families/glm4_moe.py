"""GLM-4.5: part of each head rotated, dense layers, then experts scored by sigmoids beside one that all tokens take.

transformers: models/glm4_moe
"""

from dataclasses import replace
from typing import Any

from xplm.config import DecoderConfig
from xplm.models.families.activations import read_activation
from xplm.models.families.blocks import head_width, read_llama_block
from xplm.models.families.experts import NUMBERED, read_experts, routed_block, write_experts
from xplm.models.families.family import COMMON, ROPE, SIZES, Family
from xplm.models.families.fields import Fields
from xplm.models.families.rope import read_rope, read_share, share_of, write_rope
from xplm.models.families.windows import FULL, require_layer_types
from xplm.specs import BlockSpec, ExpertsSpec, MLPSpec, RMSNormSpec, RouterSpec

COUNT, WIDTH = "n_routed_experts", "moe_intermediate_size"


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
    experts = read_scored_experts(hf)
    routed = replace(dense, mlp=experts)
    layers, n_dense = range(hf.integer("num_hidden_layers")), hf.count("first_k_dense_replace", 1)
    return tuple(dense if layer < n_dense else routed for layer in layers)


def read_scored_experts(hf: Fields) -> ExpertsSpec:
    """Experts of sigmoid scores, with a correction that chooses, in groups."""
    router = RouterSpec(
        "sigmoid",
        is_normalised=hf.flag("norm_topk_prob", True),
        factor=hf.number("routed_scaling_factor", 1.0),
        has_correction=True,
        num_groups=hf.integer("n_group", 1),
        kept_groups=hf.integer("topk_group", 1),
        group_score="best two",
    )
    width = hf.integer("n_shared_experts", 1) * hf.integer(WIDTH)
    shared = MLPSpec(width, read_activation(hf, is_gated=True), is_gated=True, bias=False)
    return read_experts(hf, router, count=COUNT, width=WIDTH, shared=shared)


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    block, _ = routed_block(config.blocks)
    mixer, rope, first = block.mixer, config.ropes[0], config.blocks[0].mlp
    n_dense = sum(isinstance(b.mlp, MLPSpec) for b in config.blocks)
    return {
        **write_rope(rope),
        **write_scored_experts(config),
        "first_k_dense_replace": n_dense,
        **({"intermediate_size": first.intermediate_size} if n_dense else {}),
        "partial_rotary_factor": share_of(rope.dim, mixer.head_dim),
        "attention_bias": mixer.qkv_bias,
        "use_qk_norm": mixer.qk_norm is not None,
    }


def write_scored_experts(config: DecoderConfig) -> dict[str, Any]:
    """The keys of experts of sigmoid scores."""
    _, experts = routed_block(config.blocks)
    router, shared = experts.router, experts.shared
    assert shared is not None
    return {
        **write_experts(experts, count=COUNT, width=WIDTH),
        "norm_topk_prob": router.is_normalised,
        "routed_scaling_factor": router.factor,
        "n_group": router.num_groups,
        "topk_group": router.kept_groups,
        "n_shared_experts": shared.intermediate_size // experts.intermediate_size,
    }


GLM4_MOE = Family(
    "glm4_moe",
    "Glm4MoeForCausalLM",
    keys=(
        *(*COMMON, *SIZES, *ROPE, "rms_norm_eps", "attention_bias", "use_qk_norm"),
        *("partial_rotary_factor", "first_k_dense_replace", "n_group", "topk_group"),
        *("n_routed_experts", "n_shared_experts", "num_experts_per_tok", "moe_intermediate_size"),
        *("norm_topk_prob", "routed_scaling_factor"),
    ),
    norm_eps_key="rms_norm_eps",
    hidden_act="silu",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    inert=("output_router_logits", "num_nextn_predict_layers", "num_mtp_layers"),
    spelling={"num_local_experts": COUNT},
    aliases=("num_local_experts",),
    defaults={
        "num_key_value_heads": 8,
        "intermediate_size": 10944,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "n_routed_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 1408,
    },
    modules=NUMBERED,
)
