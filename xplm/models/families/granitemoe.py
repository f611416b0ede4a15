"""Granite with routed experts in place of its MLP.   transformers: models/granitemoe"""

from dataclasses import replace
from typing import Any

from xplm.config import DecoderConfig
from xplm.models.families import granite
from xplm.models.families.experts import (
    BALANCE,
    GGUF_COUNTS,
    GGUF_MODULES,
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
from xplm.models.families.stored import StoredAs
from xplm.specs import BlockSpec, RouterSpec

COUNT, WIDTH = "num_local_experts", "intermediate_size"
BOTH = StoredAs("block_sparse_moe.input_linear", axis=1)


def read_blocks(hf: Fields) -> tuple[BlockSpec, ...]:
    """Blocks from config.json."""
    router = RouterSpec("softmax", is_normalised=True, balance=read_balance(hf))
    experts = read_experts(hf, router, count=COUNT, width=WIDTH)
    return tuple(replace(block, mlp=experts) for block in granite.read_blocks(hf))


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    block, experts = routed_block(config.blocks)
    return {
        **write_rope(config.ropes[0]),
        **granite.write_scales(config),
        **write_experts(experts, count=COUNT, width=WIDTH),
        "attention_bias": block.mixer.qkv_bias,
    }


def read_gguf(file: GGUFFile) -> dict[str, Any]:
    """Granite's keys, and the experts."""
    keys = granite.read_gguf(file)
    del keys["mlp_bias"]
    return keys | read_gguf_counts(file, COUNT)


def write_gguf(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these are read from."""
    return granite.write_gguf(config) | write_gguf_counts(routed_block(config.blocks)[1])


GRANITEMOE = Family(
    "granitemoe",
    "GraniteMoeForCausalLM",
    keys=(
        *(*COMMON, *SIZES, *ROPE, "rms_norm_eps", "attention_bias", *granite.SCALES, *BALANCE),
        *("num_local_experts", "num_experts_per_tok"),
    ),
    norm_eps_key="rms_norm_eps",
    hidden_act="silu",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    read_scales=granite.read_scales,
    defaults={
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "router_aux_loss_coef": 0.001,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    modules={
        "mlp.gate": "block_sparse_moe.router.layer",
        "mlp.experts.gate_proj": BOTH,
        "mlp.experts.up_proj": BOTH,
        "mlp.experts.down_proj": "block_sparse_moe.output_linear",
    },
    experts_module="block_sparse_moe.experts",
    gguf=(
        GGUFLayout(
            "granitemoe",
            keys=(*granite.SCALES.values(), granite.HAS_ROPE, *GGUF_COUNTS),
            read=read_gguf,
            write=write_gguf,
            modules=GGUF_MODULES,
            has_interleaved_rows=True,
        ),
    ),
)
