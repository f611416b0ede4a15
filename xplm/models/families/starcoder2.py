"""StarCoder2: GPT-2's MLP and norms, with rotated grouped-query attention.   transformers: models/starcoder2"""

from typing import Any

from xplm.config import DecoderConfig
from xplm.models.families.activations import read_mlp
from xplm.models.families.blocks import head_width, in_all_layers, read_attention
from xplm.models.families.family import COMMON, ROPE, SIZES, Family
from xplm.models.families.fields import Fields
from xplm.models.families.gguf import LAYER_NORM_EPS, GGUFLayout
from xplm.models.families.rope import read_rope, write_rope
from xplm.models.families.windows import read_window
from xplm.specs import BlockSpec, LayerNormSpec


def read_blocks(hf: Fields) -> tuple[BlockSpec, ...]:
    """Blocks from config.json."""
    bias = hf.flag("use_bias")
    attention = read_attention(
        hf,
        rope=read_rope(hf, head_width(hf)),
        qkv_bias=bias,
        output_bias=bias,
        window=read_window(hf),
    )
    mlp = read_mlp(hf, is_gated=False, bias=bias)
    norm = LayerNormSpec(hf.number("norm_epsilon", 1e-5))
    return in_all_layers(hf, BlockSpec(attention, mlp, norm, norm))


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    block = config.blocks[0]
    facts = {"use_bias": block.mlp.bias, "sliding_window": block.mixer.window}
    return write_rope(config.ropes[0]) | facts


STARCODER2 = Family(
    "starcoder2",
    "Starcoder2ForCausalLM",
    keys=(*COMMON, *SIZES, *ROPE, "norm_epsilon", "use_bias", "sliding_window"),
    norm_eps_key="norm_epsilon",
    hidden_act="gelu_pytorch_tanh",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    inert=("residual_dropout", "embedding_dropout"),
    defaults={
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "use_bias": True,
        "tie_word_embeddings": True,
    },
    modules={"mlp.up_proj": "mlp.c_fc", "mlp.down_proj": "mlp.c_proj"},
    gguf=(GGUFLayout("starcoder2", norm_eps_key=LAYER_NORM_EPS),),
)
