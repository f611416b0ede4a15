"""OLMo 2: norms of both branches' outputs alone, and of q and k over all heads.   transformers: models/olmo2"""

from dataclasses import replace
from typing import Any

from xplm.config import DecoderConfig
from xplm.models.families.blocks import in_all_layers, read_llama_block
from xplm.models.families.family import COMMON, ROPE, SIZES, Family
from xplm.models.families.fields import Fields
from xplm.models.families.gguf import GGUFLayout
from xplm.models.families.rope import write_rope
from xplm.models.families.windows import FULL, require_layer_types
from xplm.specs import BlockSpec, RMSNormSpec

MODULES = {
    "post_self_attn_layernorm": "post_attention_layernorm",
    "post_mlp_layernorm": "post_feedforward_layernorm",
}
"""Where files of OLMo store the norms of outputs."""

GGUF_MODULES = {
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_self_attn_layernorm": "post_attention_norm",
    "post_mlp_layernorm": "post_ffw_norm",
}

DEFAULTS = {"rms_norm_eps": 1e-5, "eos_token_id": 50279, "pad_token_id": 1}


def read_block(hf: Fields, **facts: Any) -> BlockSpec:
    """One block from config.json; `facts` as `read_llama_block` takes them."""
    bias = hf.flag("attention_bias")
    qk_norm = RMSNormSpec(hf.number("rms_norm_eps"))
    own: dict[str, Any] = {"qk_norm": qk_norm, "qk_norm_over": "all heads"}
    block = read_llama_block(hf, qkv_bias=bias, output_bias=bias, **own, **facts)
    norm = block.norm
    return replace(block, norm=None, mlp_norm=None, mixer_output_norm=norm, mlp_output_norm=norm)


def read_blocks(hf: Fields) -> tuple[BlockSpec, ...]:
    """Blocks from config.json."""
    require_layer_types(hf, FULL)
    return in_all_layers(hf, read_block(hf))


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    return write_rope(config.ropes[0]) | {"attention_bias": config.blocks[0].mixer.qkv_bias}


OLMO2 = Family(
    "olmo2",
    "Olmo2ForCausalLM",
    keys=(*COMMON, *SIZES, *ROPE, "rms_norm_eps", "attention_bias"),
    norm_eps_key="rms_norm_eps",
    hidden_act="silu",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    defaults=DEFAULTS,
    modules=MODULES,
    gguf=(GGUFLayout("olmo2", modules=GGUF_MODULES),),
)
