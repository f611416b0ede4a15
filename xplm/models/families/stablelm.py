"""StableLM: LayerNorm around Llama's attention and MLP, part of each head rotated.   transformers: models/stablelm

StableLM 2 12B has one norm for attention and MLP, in parallel, and norms of q and k with weights of each head's own.
"""

from typing import Any

from xplm.config import DecoderConfig
from xplm.models.families.activations import read_mlp
from xplm.models.families.blocks import in_all_layers, read_attention, require_shared_width
from xplm.models.families.family import COMMON, ROPE, SIZES, Family
from xplm.models.families.fields import Fields
from xplm.models.families.gguf import (
    LAYER_NORM_EPS,
    ROTATED,
    GGUFFile,
    GGUFLayout,
    read_rotated_share,
)
from xplm.models.families.rope import read_rope, read_share, share_of, write_rope
from xplm.models.families.stored import StoredAs
from xplm.models.families.windows import FULL, require_layer_types
from xplm.specs import BlockSpec, LayerNormSpec


def read_blocks(hf: Fields) -> tuple[BlockSpec, ...]:
    """Blocks from config.json."""
    require_layer_types(hf, FULL)
    D, eps = require_shared_width(hf), hf.number("layer_norm_eps", 1e-5)
    norm = LayerNormSpec(eps)
    attention = read_attention(
        hf,
        rope=read_rope(hf, D, read_share(hf, 0.25)),
        qkv_bias=hf.flag("use_qkv_bias"),
        output_bias=False,
        qk_norm=LayerNormSpec(eps, has_bias=False) if hf.flag("qk_layernorm") else None,
        qk_norm_over="each head",
    )
    mlp, is_parallel = read_mlp(hf, is_gated=True, bias=False), hf.flag("use_parallel_residual")
    mlp_norm = None if is_parallel else norm
    return in_all_layers(hf, BlockSpec(attention, mlp, norm, mlp_norm, is_parallel=is_parallel))


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    block, rope = config.blocks[0], config.ropes[0]
    return write_rope(rope) | {
        "partial_rotary_factor": share_of(rope.dim, block.mixer.head_dim),
        "use_qkv_bias": block.mixer.qkv_bias,
        "qk_layernorm": block.mixer.qk_norm is not None,
        "use_parallel_residual": block.is_parallel,
    }


def read_gguf(file: GGUFFile) -> dict[str, Any]:
    """A key of its own, and what the tensors say."""
    return read_rotated_share(file) | {
        "use_qkv_bias": file.has_bias("attn_q"),
        "qk_layernorm": "blk.0.attn_q_norm.weight" in file.shapes,
        "use_parallel_residual": "blk.0.ffn_norm.weight" not in file.shapes,
    }


def write_gguf(config: DecoderConfig) -> dict[str, Any]:
    """What llama.cpp reads off the tensors, as its converter writes it too."""
    return {"use_parallel_residual": config.blocks[0].is_parallel}


STABLELM = Family(
    "stablelm",
    "StableLmForCausalLM",
    keys=(
        *(*COMMON, *SIZES, *ROPE, "layer_norm_eps", "partial_rotary_factor"),
        *("use_qkv_bias", "qk_layernorm", "use_parallel_residual"),
    ),
    norm_eps_key="layer_norm_eps",
    hidden_act="silu",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    defaults={
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
    modules={
        "self_attn.q_norm": StoredAs("self_attn.q_layernorm.norms.{}"),
        "self_attn.k_norm": StoredAs("self_attn.k_layernorm.norms.{}"),
    },
    gguf=(
        GGUFLayout(
            "stablelm",
            norm_eps_key=LAYER_NORM_EPS,
            keys=(ROTATED, "use_parallel_residual"),
            read=read_gguf,
            write=write_gguf,
            modules={"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"},
        ),
    ),
)
