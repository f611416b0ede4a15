"""Phi-1 and 2: attention and MLP read one norm, part of each head is rotated, biases everywhere.

transformers: models/phi
"""

from typing import Any

from xplm.config import DecoderConfig
from xplm.errors import ConfigError
from xplm.models.families.activations import read_mlp
from xplm.models.families.blocks import head_width, in_all_layers, read_attention
from xplm.models.families.family import COMMON, ROPE, SIZES, Family
from xplm.models.families.fields import Fields
from xplm.models.families.gguf import LAYER_NORM_EPS, ROTATED, GGUFLayout, read_rotated_share
from xplm.models.families.rope import read_rope, read_share, share_of, write_rope
from xplm.models.families.windows import FULL, require_layer_types
from xplm.specs import BlockSpec, LayerNormSpec


def read_blocks(hf: Fields) -> tuple[BlockSpec, ...]:
    """Blocks from config.json."""
    require_layer_types(hf, FULL)
    heads, width, D = hf.integer("num_attention_heads"), hf.integer("hidden_size"), head_width(hf)
    if width // heads != D:
        raise ConfigError(f"head_dim of a phi is hidden_size / heads, {width // heads}; got {D}")
    norm = LayerNormSpec(hf.number("layer_norm_eps", 1e-5))
    attention = read_attention(
        hf,
        rope=read_rope(hf, D, read_share(hf, 0.5)),
        qkv_bias=True,
        output_bias=True,
        qk_norm=norm if hf.flag("qk_layernorm") else None,
    )
    mlp = read_mlp(hf, is_gated=False, bias=True)
    return in_all_layers(hf, BlockSpec(attention, mlp, norm, mlp_norm=None, is_parallel=True))


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    mixer, rope = config.blocks[0].mixer, config.ropes[0]
    return write_rope(rope) | {
        "partial_rotary_factor": share_of(rope.dim, mixer.head_dim),
        "qk_layernorm": mixer.qk_norm is not None,
    }


PHI = Family(
    "phi",
    "PhiForCausalLM",
    keys=(
        *(*COMMON, *SIZES, *ROPE),
        *("layer_norm_eps", "partial_rotary_factor", "qk_layernorm"),
    ),
    norm_eps_key="layer_norm_eps",
    hidden_act="gelu_new",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    has_head_bias=True,
    inert=("resid_pdrop", "embd_pdrop"),
    defaults={"bos_token_id": 1, "eos_token_id": 2},
    modules={
        "model.norm": "model.final_layernorm",
        "self_attn.o_proj": "self_attn.dense",
        "self_attn.q_norm": "self_attn.q_layernorm",
        "self_attn.k_norm": "self_attn.k_layernorm",
        "mlp.up_proj": "mlp.fc1",
        "mlp.down_proj": "mlp.fc2",
    },
    gguf=(
        GGUFLayout(
            "phi2",
            norm_eps_key=LAYER_NORM_EPS,
            keys=(ROTATED,),
            read=read_rotated_share,
            has_own_head=True,
        ),
    ),
)
