"""Arcee: Llama with an MLP of squared ReLU, without a gate.   transformers: models/arcee"""

from xplm.models.families.blocks import in_all_layers, read_llama_block
from xplm.models.families.family import COMMON, ROPE, SIZES, Family
from xplm.models.families.fields import Fields
from xplm.models.families.gguf import GGUFLayout
from xplm.models.families.llama import read_gguf, write_blocks
from xplm.models.families.windows import FULL, require_layer_types
from xplm.specs import BlockSpec


def read_blocks(hf: Fields) -> tuple[BlockSpec, ...]:
    """Blocks from config.json."""
    require_layer_types(hf, FULL)
    bias, mlp_bias = hf.flag("attention_bias"), hf.flag("mlp_bias")
    block = read_llama_block(hf, is_gated=False, qkv_bias=bias, output_bias=bias, mlp_bias=mlp_bias)
    return in_all_layers(hf, block)


ARCEE = Family(
    "arcee",
    "ArceeForCausalLM",
    keys=(*COMMON, *SIZES, *ROPE, "rms_norm_eps", "attention_bias", "mlp_bias"),
    norm_eps_key="rms_norm_eps",
    hidden_act="relu2",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    defaults={
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 128000,
        "eos_token_id": 128001,
    },
    gguf=(GGUFLayout("arcee", read=read_gguf, has_interleaved_rows=True),),
)
