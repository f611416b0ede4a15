"""GPT-2: LayerNorm, learned positions, biases everywhere, and an MLP without a gate.   transformers: models/gpt2

Its file stores q, k and v in one tensor, one after the other, and every matrix of a block as (inputs, outputs), which
its code calls Conv1D.
"""

from functools import partial
from typing import Any

from xplm.config import DecoderConfig
from xplm.errors import ConfigError
from xplm.models.families.activations import read_mlp
from xplm.models.families.blocks import head_width, read_attention
from xplm.models.families.family import COMMON, Family
from xplm.models.families.fields import Fields
from xplm.models.families.gguf import JOINED, LAYER_NORM_EPS, GGUFLayout
from xplm.models.families.stored import StoredAs
from xplm.models.families.windows import FULL, require_layer_types
from xplm.specs import BlockSpec, LayerNormSpec

Conv1D = partial(StoredAs, is_transposed=True)


def read_blocks(hf: Fields) -> tuple[BlockSpec, ...]:
    """Blocks from config.json; each may have a scale of its own."""
    require_layer_types(hf, FULL)
    heads, width, D = hf.integer("num_attention_heads"), hf.integer("hidden_size"), head_width(hf)
    if D * heads != width:
        raise ConfigError(
            f"the heads of a gpt2 share its width of {width}; got {heads} heads of {D}"
        )
    norm = LayerNormSpec(hf.number("layer_norm_epsilon", 1e-5))
    mlp = read_mlp(hf, is_gated=False, bias=True, width=4 * width)
    scale = D**-0.5 if hf.flag("scale_attn_weights", True) else 1.0
    is_by_layer = hf.flag("scale_attn_by_inverse_layer_idx")
    return tuple(
        BlockSpec(
            read_attention(
                hf,
                rope=None,
                qkv_bias=True,
                output_bias=True,
                scale=scale / (layer + 1) if is_by_layer else scale,
            ),
            mlp,
            norm,
            norm,
        )
        for layer in range(hf.integer("num_hidden_layers"))
    )


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    scales = [block.mixer.scale for block in config.blocks]
    return {
        "scale_attn_weights": scales[0] != 1.0 or config.blocks[0].mixer.head_dim == 1,
        "scale_attn_by_inverse_layer_idx": len(set(scales)) > 1,
    }


GPT2 = Family(
    "gpt2",
    "GPT2LMHeadModel",
    keys=(
        *(*COMMON, "n_embd", "n_inner", "n_layer", "n_head", "n_positions", "head_dim"),
        *("activation_function", "layer_norm_epsilon", "layer_types"),
        *("scale_attn_weights", "scale_attn_by_inverse_layer_idx"),
    ),
    norm_eps_key="layer_norm_epsilon",
    hidden_act="gelu_new",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    has_learned_positions=True,
    inert=(
        *("n_ctx", "resid_pdrop", "embd_pdrop", "attn_pdrop", "reorder_and_upcast_attn"),
        *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"),
        *("summary_first_dropout", "summary_last_dropout"),
    ),
    spelling={
        "hidden_size": "n_embd",
        "intermediate_size": "n_inner",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "num_key_value_heads": "n_head",
        "max_position_embeddings": "n_positions",
        "hidden_act": "activation_function",
    },
    aliases=(
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
    ),
    defaults={"n_positions": 1024, "tie_word_embeddings": True},
    modules={
        "model.embed_tokens": "transformer.wte",
        "model.embed_positions": "transformer.wpe",
        "model.norm": "transformer.ln_f",
        "model.layers": "transformer.h",
        "input_layernorm": "ln_1",
        "self_attn.q_proj": Conv1D("attn.c_attn"),
        "self_attn.k_proj": Conv1D("attn.c_attn"),
        "self_attn.v_proj": Conv1D("attn.c_attn"),
        "self_attn.o_proj": Conv1D("attn.c_proj"),
        "post_attention_layernorm": "ln_2",
        "mlp.up_proj": Conv1D("mlp.c_fc"),
        "mlp.down_proj": Conv1D("mlp.c_proj"),
    },
    bare_prefix="transformer.",
    gguf=(GGUFLayout("gpt2", norm_eps_key=LAYER_NORM_EPS, joined=JOINED),),
)
