"""gpt-oss: sinks, a window in every other layer, and routed experts whose SwiGLU is clamped.

transformers: models/gpt_oss
"""

from dataclasses import replace
from typing import Any

from xplm.config import DecoderConfig
from xplm.models.families.blocks import head_width, read_llama_block, with_windows
from xplm.models.families.experts import (
    BALANCE,
    GGUF_COUNTS,
    GGUF_MODULES,
    GGUF_WIDTH,
    read_balance,
    read_experts,
    read_gguf_counts,
    routed_block,
    write_experts,
    write_gguf_counts,
)
from xplm.models.families.family import COMMON, ROPE, SIZES, Family
from xplm.models.families.fields import Fields
from xplm.models.families.gguf import (
    PATTERN,
    WINDOW,
    GGUFFile,
    GGUFLayout,
    read_windows_by_layer,
    write_windows_by_layer,
)
from xplm.models.families.rope import read_rope, write_rope
from xplm.models.families.stored import Modules, StoredAs
from xplm.models.families.windows import (
    FULL,
    SLIDING,
    read_switched_windows,
    write_switched_windows,
)
from xplm.specs import BlockSpec, ClampSpec, RouterSpec

COUNT, WIDTH = "num_local_experts", "intermediate_size"
YARN = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
"""RoPE where config.json says nothing of it."""


def read_blocks(hf: Fields) -> tuple[BlockSpec, ...]:
    """Blocks from config.json."""
    layers = range(hf.integer("num_hidden_layers"))
    usual = [FULL if layer % 2 else SLIDING for layer in layers]
    kinds = {"use_sliding_window": True, "layer_types": hf.get("layer_types") or usual}
    if hf.get("rope_scaling") is None and hf.get("rope_parameters") is None:
        hf = hf.but(rope_scaling=YARN)
    bias = hf.flag("attention_bias", True)
    block = read_llama_block(
        hf,
        qkv_bias=bias,
        output_bias=bias,
        has_sinks=True,
        rope=read_rope(hf, head_width(hf)),
    )
    router = RouterSpec("softmax", is_normalised=True, bias=True, balance=read_balance(hf))
    clamp = ClampSpec(hf.number("swiglu_alpha"), hf.number("swiglu_limit"))
    experts = read_experts(hf, router, count=COUNT, width=WIDTH, bias=True, clamp=clamp)
    return with_windows(replace(block, mlp=experts), read_switched_windows(hf.but(**kinds)))


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    block, experts = routed_block(config.blocks)
    assert experts.clamp is not None
    windows = write_switched_windows(config.blocks)
    return {
        **write_rope(config.ropes[0]),
        **write_experts(experts, count=COUNT, width=WIDTH),
        **{key: windows[key] for key in ("sliding_window", "layer_types")},
        "attention_bias": block.mixer.qkv_bias,
        "swiglu_alpha": experts.clamp.alpha,
        "swiglu_limit": experts.clamp.limit,
    }


def block_modules(block: BlockSpec) -> Modules:
    """Columns of gate and up in turn, all weights of experts (in, out)."""
    suffixes = {"weight": "", "bias": "_bias"}
    both = StoredAs(
        "mlp.experts.gate_up_proj",
        groups=block.mlp.intermediate_size,
        axis=1,
        is_transposed=True,
        suffixes=suffixes,
    )
    down = StoredAs("mlp.experts.down_proj", is_transposed=True, suffixes=suffixes)
    return {
        "mlp.experts.gate_proj": both,
        "mlp.experts.up_proj": both,
        "mlp.experts.down_proj": down,
    }


def read_gguf(file: GGUFFile) -> dict[str, Any]:
    """Experts, and the window of every other layer. yarn's ramp ends at whole pairs, as llama.cpp has it."""
    experts = read_gguf_counts(file, COUNT) | {WIDTH: file.integer(GGUF_WIDTH)}
    unscaled = {"rope_parameters": {"rope_type": "default"}}  # where there is no rope_scaling
    return read_windows_by_layer(file, period=2) | experts | unscaled


def write_gguf(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these are read from."""
    experts = routed_block(config.blocks)[1]
    widths = {GGUF_WIDTH: experts.intermediate_size}
    return write_windows_by_layer(config) | write_gguf_counts(experts) | widths


GPT_OSS = Family(
    "gpt_oss",
    "GptOssForCausalLM",
    keys=(
        *(*COMMON, *SIZES, *ROPE, "rms_norm_eps", "attention_bias", "sliding_window", *BALANCE),
        *("num_local_experts", "num_experts_per_tok", "swiglu_alpha", "swiglu_limit"),
    ),
    norm_eps_key="rms_norm_eps",
    hidden_act="silu",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    inert=("experts_per_token", "initial_context_length"),
    spelling={"num_experts": "num_local_experts"},
    aliases=("num_experts",),
    defaults={
        "num_key_value_heads": 8,
        "head_dim": 64,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 150000.0,
        "sliding_window": 128,
        "num_local_experts": 128,
        "num_experts_per_tok": 4,
        "swiglu_alpha": 1.702,
        "swiglu_limit": 7.0,
        "router_aux_loss_coef": 0.001,
    },
    modules={"mlp.gate": "mlp.router"},
    quant_methods=("mxfp4",),
    block_modules=block_modules,
    gguf=(
        GGUFLayout(
            "gpt-oss",
            keys=(WINDOW, PATTERN, *GGUF_COUNTS, GGUF_WIDTH),
            read=read_gguf,
            write=write_gguf,
            modules={**GGUF_MODULES, "post_attention_layernorm": "post_attention_norm"},
            tensors={"self_attn.sinks": "attn_sinks.weight"},
            has_own_head=True,
        ),
    ),
)
