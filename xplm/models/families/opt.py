"""OPT: LayerNorm, learned positions from the table's third row on, biases everywhere, and an MLP of ReLU.

transformers: models/opt
"""

from typing import Any

from xplm.config import DecoderConfig
from xplm.errors import ConfigError
from xplm.models.families.activations import read_mlp
from xplm.models.families.blocks import in_all_layers, read_attention, require_shared_width
from xplm.models.families.family import COMMON, Family
from xplm.models.families.fields import Fields
from xplm.models.families.windows import FULL, require_layer_types
from xplm.specs import BlockSpec, LayerNormSpec

EPS = 1e-5  # torch's own; config.json has none


def read_blocks(hf: Fields) -> tuple[BlockSpec, ...]:
    """Blocks from config.json."""
    require_layer_types(hf, FULL)
    require_shared_width(hf)
    width = hf.integer("hidden_size")
    if hf.integer("word_embed_proj_dim", width) != width:
        raise ConfigError(
            f"word_embed_proj_dim of an opt is hidden_size, {width}, for xplm has no projection "
            f"of embeddings; got {hf.get('word_embed_proj_dim')}"
        )
    for key, only in (("do_layer_norm_before", True), ("_remove_final_layer_norm", False)):
        if hf.flag(key, only) is not only:
            raise ConfigError(
                f"{key} of an opt is {str(only).lower()}, for xplm has no norms after the sum"
            )
    bias, norm = hf.flag("enable_bias", True), LayerNormSpec(EPS)
    if not hf.flag("layer_norm_elementwise_affine", True):
        norm = LayerNormSpec(EPS, has_weight=False, has_bias=False)
    attention = read_attention(hf, rope=None, qkv_bias=bias, output_bias=bias)
    mlp = read_mlp(hf, is_gated=False, bias=bias)
    return in_all_layers(hf, BlockSpec(attention, mlp, norm, norm))


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    block = config.blocks[0]
    return {
        "enable_bias": block.mlp.bias,
        "layer_norm_elementwise_affine": block.norm == LayerNormSpec(EPS),
        "word_embed_proj_dim": config.hidden_size,
        "do_layer_norm_before": True,
    }


OPT = Family(
    "opt",
    "OPTForCausalLM",
    keys=(
        *(*(key for key in COMMON if key != "initializer_range"), "init_std"),
        *("hidden_size", "ffn_dim", "num_hidden_layers", "num_attention_heads"),
        *("max_position_embeddings", "activation_function", "enable_bias", "layer_types"),
        *("layer_norm_elementwise_affine", "do_layer_norm_before", "_remove_final_layer_norm"),
        "word_embed_proj_dim",
    ),
    norm_eps_key="",
    hidden_act="relu",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    has_learned_positions=True,
    position_offset=2,
    inert=("dropout", "layerdrop"),
    spelling={
        "intermediate_size": "ffn_dim",
        "num_key_value_heads": "num_attention_heads",
        "hidden_act": "activation_function",
        "initializer_range": "init_std",
    },
    defaults={
        "tie_word_embeddings": True,
        "bos_token_id": 2,
        "eos_token_id": 2,
        "pad_token_id": 1,
    },
    modules={
        "model.embed_tokens": "model.decoder.embed_tokens",
        "model.embed_positions": "model.decoder.embed_positions",
        "model.norm": "model.decoder.final_layer_norm",
        "model.layers": "model.decoder.layers",
        "input_layernorm": "self_attn_layer_norm",
        "self_attn.o_proj": "self_attn.out_proj",
        "post_attention_layernorm": "final_layer_norm",
        "mlp.up_proj": "fc1",
        "mlp.down_proj": "fc2",
    },
    bare_prefix="model.",
)
