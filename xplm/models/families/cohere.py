"""Cohere's Command R: attention and MLP read one norm without a bias, neighbours are rotated, logits are scaled.

transformers: models/cohere
"""

from typing import Any

from xplm.config import DecoderConfig
from xplm.errors import ConfigError
from xplm.kernels.rope import NEIGHBOURS
from xplm.models.families.activations import read_mlp
from xplm.models.families.blocks import head_width, in_all_layers, read_attention
from xplm.models.families.family import COMMON, ROPE, SIZES, Family
from xplm.models.families.fields import Fields
from xplm.models.families.gguf import LAYER_NORM_EPS, GGUFFile, GGUFLayout
from xplm.models.families.rope import read_rope, write_rope
from xplm.models.families.windows import FULL, require_layer_types
from xplm.specs import BlockSpec, LayerNormSpec

LOGIT_SCALE = 0.0625
NORMED_FROM = 64  # layers: by their number llama.cpp tells whether q and k have norms


def read_blocks(hf: Fields) -> tuple[BlockSpec, ...]:
    """Blocks from config.json."""
    require_layer_types(hf, FULL)
    bias = hf.flag("attention_bias")
    norm = LayerNormSpec(hf.number("layer_norm_eps", 1e-5), has_bias=False)
    attention = read_attention(
        hf,
        rope=read_rope(hf, head_width(hf), pairs=NEIGHBOURS),
        qkv_bias=bias,
        output_bias=bias,
        qk_norm=norm if hf.flag("use_qk_norm") else None,
        qk_norm_over="each head",
    )
    mlp = read_mlp(hf, is_gated=True, bias=False)
    return in_all_layers(hf, BlockSpec(attention, mlp, norm, mlp_norm=None, is_parallel=True))


def read_scales(hf: Fields) -> dict[str, Any]:
    """Logits are multiplied by `logit_scale`."""
    return {"logit_scale": hf.number("logit_scale", LOGIT_SCALE)}


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    mixer = config.blocks[0].mixer
    return write_rope(config.ropes[0]) | {
        "attention_bias": mixer.qkv_bias,
        "use_qk_norm": mixer.qk_norm is not None,
        "logit_scale": config.logit_scale,
    }


def read_gguf(file: GGUFFile) -> dict[str, Any]:
    """The scale, and norms and biases where their tensors are."""
    return {
        "logit_scale": file.number("logit_scale", 1.0),
        "attention_bias": file.has_bias("attn_q"),
        "use_qk_norm": "blk.0.attn_q_norm.weight" in file.shapes,
    }


def write_gguf(config: DecoderConfig) -> dict[str, Any]:
    """The scale.

    Raises:
        ConfigError: llama.cpp would look for norms of q and k that there are not, or not for those that there are.
    """
    has_norms = config.blocks[0].mixer.qk_norm is not None
    if has_norms != (config.num_hidden_layers >= NORMED_FROM):
        raise ConfigError(
            f"in a GGUF file of a command-r, q and k must have norms from {NORMED_FROM} layers on, and none below; "
            f"this model has {config.num_hidden_layers} layers {'with' if has_norms else 'without'} them"
        )
    return {"logit_scale": config.logit_scale}


COHERE = Family(
    "cohere",
    "CohereForCausalLM",
    keys=(
        *(*COMMON, *SIZES, *ROPE),
        *("layer_norm_eps", "attention_bias", "use_qk_norm", "logit_scale"),
    ),
    norm_eps_key="layer_norm_eps",
    hidden_act="silu",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    read_scales=read_scales,
    defaults={
        "max_position_embeddings": 8192,
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "bos_token_id": 5,
        "eos_token_id": 255001,
        "pad_token_id": 0,
    },
    gguf=(
        GGUFLayout(
            "command-r",
            norm_eps_key=LAYER_NORM_EPS,
            keys=("logit_scale",),
            read=read_gguf,
            write=write_gguf,
            modules={"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"},
            has_head=False,
        ),
    ),
)
