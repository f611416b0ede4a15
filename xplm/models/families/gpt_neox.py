"""GPT-NeoX and Pythia: attention and MLP in parallel, each behind a LayerNorm of its own; part of each head is rotated.

transformers: models/gpt_neox. Its file stores q, k and v in one tensor, those of the first head, then of the second.
"""

from typing import Any

from xplm.config import DecoderConfig
from xplm.models.families.activations import read_mlp
from xplm.models.families.blocks import in_all_layers, read_attention, require_shared_width
from xplm.models.families.family import COMMON, Family
from xplm.models.families.fields import Fields
from xplm.models.families.gguf import (
    JOINED,
    LAYER_NORM_EPS,
    ROTATED,
    GGUFFile,
    GGUFLayout,
    read_rotated_share,
)
from xplm.models.families.rope import read_rope, read_share, share_of, write_rope
from xplm.models.families.stored import Modules, StoredAs
from xplm.models.families.windows import FULL, require_layer_types
from xplm.specs import BlockSpec, LayerNormSpec


def read_blocks(hf: Fields) -> tuple[BlockSpec, ...]:
    """Blocks from config.json."""
    require_layer_types(hf, FULL)
    D, bias = require_shared_width(hf), hf.flag("attention_bias", True)
    rope = read_rope(hf, D, read_share(hf, 0.25))
    attention = read_attention(hf, rope=rope, qkv_bias=bias, output_bias=bias)
    norm = LayerNormSpec(hf.number("layer_norm_eps", 1e-5))
    mlp, is_parallel = (
        read_mlp(hf, is_gated=False, bias=True),
        hf.flag("use_parallel_residual", True),
    )
    return in_all_layers(hf, BlockSpec(attention, mlp, norm, norm, is_parallel=is_parallel))


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    block, rope = config.blocks[0], config.ropes[0]
    return write_rope(rope) | {
        "partial_rotary_factor": share_of(rope.dim, block.mixer.head_dim),
        "attention_bias": block.mixer.qkv_bias,
        "use_parallel_residual": block.is_parallel,
    }


def block_modules(block: BlockSpec) -> Modules:
    """One head after the other."""
    qkv = StoredAs("attention.query_key_value", groups=block.mixer.num_heads)
    return {f"self_attn.{part}_proj": qkv for part in "qkv"}


def read_gguf(file: GGUFFile) -> dict[str, Any]:
    """Keys of its own, and biases that are there where their tensors are."""
    return {
        "rotary_pct": read_rotated_share(file)["partial_rotary_factor"],
        "use_parallel_residual": file.flag("use_parallel_residual", True),
        "attention_bias": file.has_bias("attn_q"),
    }


def write_gguf(config: DecoderConfig) -> dict[str, Any]:
    """The keys that they are read from."""
    return {"use_parallel_residual": config.blocks[0].is_parallel}


GPT_NEOX = Family(
    "gpt_neox",
    "GPTNeoXForCausalLM",
    keys=(
        *(*COMMON, "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("max_position_embeddings", "hidden_act", "layer_types", "layer_norm_eps"),
        *("rotary_pct", "rotary_emb_base", "rope_scaling", "rope_parameters"),
        *("original_max_position_embeddings", "attention_bias", "use_parallel_residual"),
    ),
    norm_eps_key="layer_norm_eps",
    hidden_act="gelu",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    spelling={
        "rope_theta": "rotary_emb_base",
        "partial_rotary_factor": "rotary_pct",
        "num_key_value_heads": "num_attention_heads",
    },
    defaults={"bos_token_id": 0, "eos_token_id": 2},
    modules={
        "model.embed_tokens": "gpt_neox.embed_in",
        "model.norm": "gpt_neox.final_layer_norm",
        "model.layers": "gpt_neox.layers",
        "lm_head": "embed_out",
        "self_attn.o_proj": "attention.dense",
        "mlp.up_proj": "mlp.dense_h_to_4h",
        "mlp.down_proj": "mlp.dense_4h_to_h",
    },
    block_modules=block_modules,
    bare_prefix="gpt_neox.",
    gguf=(
        GGUFLayout(
            "gptneox",
            norm_eps_key=LAYER_NORM_EPS,
            keys=(ROTATED, "use_parallel_residual"),
            read=read_gguf,
            write=write_gguf,
            joined=JOINED,
        ),
    ),
)
