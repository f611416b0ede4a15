"""Mixtral: Mistral's block with routed experts.   transformers: models/mixtral"""

from dataclasses import replace
from typing import Any

from xplm.config import DecoderConfig
from xplm.models.families.blocks import in_all_layers, read_llama_block
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
from xplm.models.families.gguf import WINDOW, GGUFFile, GGUFLayout, write_window
from xplm.models.families.rope import write_rope
from xplm.models.families.windows import read_window
from xplm.specs import BlockSpec, RouterSpec

COUNT = "num_local_experts"


def read_blocks(hf: Fields) -> tuple[BlockSpec, ...]:
    """Blocks from config.json."""
    block = read_llama_block(hf, qkv_bias=False, output_bias=False, window=read_window(hf))
    router = RouterSpec("softmax", is_normalised=True, balance=read_balance(hf))
    experts = read_experts(hf, router, count=COUNT, width="intermediate_size")
    return in_all_layers(hf, replace(block, mlp=experts))


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    block, experts = routed_block(config.blocks)
    keys = write_rope(config.ropes[0]) | {"sliding_window": block.mixer.window}
    return keys | write_experts(experts, count=COUNT, width="intermediate_size")


def claims_gguf(file: GGUFFile) -> bool:
    """Whether a llama of a GGUF file is a Mixtral: it has experts."""
    return file.integer("expert_count", 0) > 0


def read_gguf(file: GGUFFile) -> dict[str, Any]:
    """Experts, and the window of all layers."""
    return read_gguf_counts(file, COUNT) | {"sliding_window": file.integer(WINDOW, 0) or None}


def write_gguf(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these are read from."""
    return write_window(config) | write_gguf_counts(routed_block(config.blocks)[1])


MIXTRAL = Family(
    "mixtral",
    "MixtralForCausalLM",
    keys=(
        *(*COMMON, *SIZES, *ROPE, "rms_norm_eps", "sliding_window"),
        *("num_local_experts", "num_experts_per_tok", *BALANCE),
    ),
    norm_eps_key="rms_norm_eps",
    hidden_act="silu",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    inert=("router_jitter_noise",),
    spelling={"num_experts": "num_local_experts"},
    aliases=("num_experts",),
    defaults={
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000.0,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "router_aux_loss_coef": 0.001,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    modules={
        "mlp.gate": "block_sparse_moe.gate",
        "mlp.experts.gate_proj": "block_sparse_moe.experts.{}.w1",
        "mlp.experts.up_proj": "block_sparse_moe.experts.{}.w3",
        "mlp.experts.down_proj": "block_sparse_moe.experts.{}.w2",
    },
    gguf=(
        GGUFLayout(
            "llama",
            claims=claims_gguf,
            keys=(WINDOW, *GGUF_COUNTS),
            read=read_gguf,
            write=write_gguf,
            modules=GGUF_MODULES,
            numbered={f"ffn_{part}": f"ffn_{part}_exps" for part in ("gate", "up", "down")},
            has_interleaved_rows=True,
        ),
    ),
)
