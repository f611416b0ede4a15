"""Falcon: LayerNorm, attention and MLP in parallel, grouped-query attention, no biases.   transformers: models/falcon

Its file stores q, k and v in one tensor: of each key/value head its queries, its key, its value. The first Falcons
(7B) have one key/value head, or as many as queries, and one norm; the new architecture (40B, 180B) any number, and two
norms or one.
"""

from typing import Any

from xplm.config import DecoderConfig
from xplm.errors import ConfigError
from xplm.models.families.activations import read_mlp
from xplm.models.families.blocks import in_all_layers, read_attention, require_shared_width
from xplm.models.families.family import COMMON, ROPE, Family
from xplm.models.families.fields import Fields
from xplm.models.families.gguf import JOINED, LAYER_NORM_EPS, GGUFFile, GGUFLayout
from xplm.models.families.rope import read_rope, write_rope
from xplm.models.families.stored import Modules, StoredAs
from xplm.models.families.windows import FULL, require_layer_types
from xplm.specs import BlockSpec, LayerNormSpec

SECOND_NORM = "attn_norm_2"  # in GGUF files


def read_blocks(hf: Fields) -> tuple[BlockSpec, ...]:
    """Blocks from config.json."""
    require_layer_types(hf, FULL)
    D, heads = require_shared_width(hf), hf.integer("num_attention_heads")
    if hf.flag("alibi"):
        raise ConfigError(
            "alibi of a falcon is false, for xplm has no attention biases by distance"
        )
    is_new, is_parallel = hf.flag("new_decoder_architecture"), hf.flag("parallel_attn", True)
    n_norms = hf.integer("num_ln_in_parallel_attn", 2 if is_new else 1, at_most=2)
    groups = hf.integer("num_key_value_heads", heads)
    if is_new and not is_parallel:
        raise ConfigError("parallel_attn of a falcon of the new architecture is true; got false")
    if not is_new:
        if is_parallel and n_norms == 2:
            raise ConfigError(
                "num_ln_in_parallel_attn of a falcon is 1 without the new architecture; got 2"
            )
        groups = 1 if hf.flag("multi_query", True) else groups
        if groups not in (1, heads):
            raise ConfigError(
                f"num_kv_heads of a falcon without the new architecture is {heads}, as many as "
                f"num_attention_heads; got {groups}"
            )
    bias, norm = hf.flag("bias"), LayerNormSpec(hf.number("layer_norm_epsilon", 1e-5))
    attention = read_attention(
        hf, rope=read_rope(hf, D), qkv_bias=bias, output_bias=bias, num_key_value_heads=groups
    )
    mlp = read_mlp(hf, is_gated=False, bias=bias, width=4 * hf.integer("hidden_size"))
    has_one = is_parallel and n_norms == 1
    block = BlockSpec(attention, mlp, norm, None if has_one else norm, is_parallel=is_parallel)
    return in_all_layers(hf, block)


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    block = config.blocks[0]
    mixer, keys = block.mixer, write_rope(config.ropes[0])
    keys |= architecture(mixer.num_key_value_heads, mixer.num_heads, _has_two_norms(block))
    return keys | {"parallel_attn": block.is_parallel, "bias": block.mlp.bias, "alibi": False}


def architecture(groups: int, heads: int, has_two_norms: bool) -> dict[str, Any]:
    """The keys of the older architecture where it has such a model, else of the newer."""
    is_new = has_two_norms or groups not in (1, heads)
    return {
        "new_decoder_architecture": is_new,
        "num_ln_in_parallel_attn": 1 + has_two_norms if is_new else None,
        "multi_query": groups == 1,
    }


def _has_two_norms(block: BlockSpec) -> bool:
    return block.is_parallel and block.mlp_norm is not None


def block_modules(block: BlockSpec) -> Modules:
    """One key/value head after the other, and the names of the norms of two that are parallel."""
    qkv = StoredAs("self_attention.query_key_value", groups=block.mixer.num_key_value_heads)
    modules = {f"self_attn.{part}_proj": qkv for part in "qkv"}
    if not _has_two_norms(block):
        return modules
    return modules | {"input_layernorm": "ln_attn", "post_attention_layernorm": "ln_mlp"}


def read_gguf(file: GGUFFile) -> dict[str, Any]:
    """The architecture, as numbers of heads and norms say it; biases are there where their tensors are."""
    heads = file.integer("attention.head_count")
    groups = file.integer("attention.head_count_kv", heads)
    has_two_norms = f"blk.0.{SECOND_NORM}.weight" in file.shapes
    return architecture(groups, heads, has_two_norms) | {"bias": file.has_bias("ffn_up")}


def gguf_modules(block: BlockSpec) -> dict[str, str]:
    """Of two norms the second is attention's."""
    if not _has_two_norms(block):
        return {}
    return {"input_layernorm": SECOND_NORM, "post_attention_layernorm": "attn_norm"}


FALCON = Family(
    "falcon",
    "FalconForCausalLM",
    keys=(
        *(*COMMON, *ROPE, "hidden_size", "ffn_hidden_size", "num_hidden_layers", "num_kv_heads"),
        *("num_attention_heads", "max_position_embeddings", "activation", "layer_types"),
        *("layer_norm_epsilon", "new_decoder_architecture", "num_ln_in_parallel_attn"),
        *("multi_query", "parallel_attn", "bias", "alibi"),
    ),
    norm_eps_key="layer_norm_epsilon",
    hidden_act="gelu",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    inert=("apply_residual_connection_post_layernorm",),
    spelling={
        "intermediate_size": "ffn_hidden_size",
        "num_key_value_heads": "num_kv_heads",
        "hidden_act": "activation",
    },
    defaults={"tie_word_embeddings": True, "bos_token_id": 11, "eos_token_id": 11},
    modules={
        "model.embed_tokens": "transformer.word_embeddings",
        "model.norm": "transformer.ln_f",
        "model.layers": "transformer.h",
        "self_attn.o_proj": "self_attention.dense",
        "mlp.up_proj": "mlp.dense_h_to_4h",
        "mlp.down_proj": "mlp.dense_4h_to_h",
    },
    block_modules=block_modules,
    bare_prefix="transformer.",
    gguf=(
        GGUFLayout(
            "falcon",
            norm_eps_key=LAYER_NORM_EPS,
            keys=("tensor_data_layout",),
            read=read_gguf,
            write=lambda _: {"tensor_data_layout": "jploski"},
            block_modules=gguf_modules,
            joined=JOINED,
        ),
    ),
)
