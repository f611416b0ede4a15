"""Qwen2-MoE: Qwen2's attention, and routed experts beside one that every token takes, behind a gate of its own.

transformers: models/qwen2_moe
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from xplm.config import DecoderConfig
from xplm.models.families.activations import read_activation
from xplm.models.families.blocks import read_llama_block
from xplm.models.families.experts import (
    BALANCE,
    GGUF_COUNTS,
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
from xplm.models.families.shared_experts import SHARED_MODULES
from xplm.models.families.windows import (
    FULL,
    SLIDING,
    SWITCHED,
    read_switched_windows,
    write_switched_windows,
)
from xplm.specs import BlockSpec, MLPSpec, RouterSpec

COUNT, WIDTH, SHARED = "num_experts", "moe_intermediate_size", "shared_expert_intermediate_size"
GGUF_SHARED = "expert_shared_feed_forward_length"


def read_blocks(hf: Fields) -> tuple[BlockSpec, ...]:
    """Blocks from config.json."""
    dense = read_llama_block(hf, qkv_bias=hf.flag("qkv_bias", True), output_bias=False)
    activation = read_activation(hf, is_gated=True)
    by_sum = hf.flag("norm_topk_prob")
    router = RouterSpec("softmax", is_normalised=by_sum, balance=read_balance(hf))
    experts = read_experts(
        hf,
        router,
        count=COUNT,
        width=WIDTH,
        shared=MLPSpec(hf.integer(SHARED), activation, is_gated=True, bias=False),
        is_shared_gated=True,
    )
    return tuple(
        replace(
            dense,
            mlp=experts if is_routed else dense.mlp,
            mixer=replace(dense.mixer, window=window),
        )
        for is_routed, window in zip(read_sparse_layers(hf), _read_windows(hf), strict=True)
    )


def _read_windows(hf: Fields) -> Sequence[int | None]:
    """Every other layer below `max_window_layers`, unless `layer_types` says otherwise."""
    below = hf.get("max_window_layers")
    is_on = hf.flag("use_sliding_window")
    if is_on and hf.get("layer_types") is None and isinstance(below, int):
        layers = range(hf.integer("num_hidden_layers"))
        kinds = [SLIDING if i % 2 == 0 and i < below else FULL for i in layers]
        return read_switched_windows(hf.but(layer_types=kinds))
    return read_switched_windows(hf)


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    block, experts = routed_block(config.blocks)
    assert experts.shared is not None
    return {
        **write_rope(config.ropes[0]),
        **write_switched_windows(config.blocks),
        **write_sparse_layers(config.blocks),
        **write_experts(experts, count=COUNT, width=WIDTH),
        SHARED: experts.shared.intermediate_size,
        "norm_topk_prob": experts.router.is_normalised,
        "qkv_bias": block.mixer.qkv_bias,
    }


def read_gguf(file: GGUFFile) -> dict[str, Any]:
    """Experts in all layers, their weights as they are."""
    return {
        **read_gguf_counts(file, COUNT),
        WIDTH: file.integer(GGUF_WIDTH),
        SHARED: file.integer(GGUF_SHARED),
        "qkv_bias": file.has_bias("attn_q"),
    }


def write_gguf(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these are read from."""
    experts = routed_block(config.blocks)[1]
    assert experts.shared is not None
    widths = {GGUF_WIDTH: experts.intermediate_size, GGUF_SHARED: experts.shared.intermediate_size}
    return write_gguf_counts(experts) | widths


QWEN2_MOE = Family(
    "qwen2_moe",
    "Qwen2MoeForCausalLM",
    keys=(
        *(*COMMON, *SIZES, *ROPE, *SWITCHED, "rms_norm_eps", "qkv_bias", *SPARSE, *BALANCE),
        *("num_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob"),
        "shared_expert_intermediate_size",
    ),
    norm_eps_key="rms_norm_eps",
    hidden_act="silu",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    defaults={
        "num_key_value_heads": 16,
        "intermediate_size": 5632,
        "max_position_embeddings": 32768,
        "sliding_window": 4096,
        "max_window_layers": 28,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "router_aux_loss_coef": 0.001,
    },
    modules={
        **NUMBERED,
        **{
            f"mlp.shared_experts.{part}_proj": f"mlp.shared_expert.{part}_proj"
            for part in ("gate", "up", "down")
        },
    },
    gguf=(
        GGUFLayout(
            "qwen2moe",
            keys=(*GGUF_COUNTS, GGUF_WIDTH, GGUF_SHARED),
            read=read_gguf,
            write=write_gguf,
            modules={**SHARED_MODULES, "mlp.shared_expert_gate": "ffn_gate_inp_shexp"},
            vectors=frozenset({"mlp.shared_expert_gate"}),
        ),
    ),
)
