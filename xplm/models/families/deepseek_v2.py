"""DeepSeek-V2: latent attention.   transformers: models/deepseek_v2"""

from typing import Any

from xplm.config import DecoderConfig
from xplm.kernels.rope import NEIGHBOURS
from xplm.models.families.activations import read_mlp
from xplm.models.families.blocks import in_all_layers
from xplm.models.families.family import COMMON, ROPE, SIZES, Family
from xplm.models.families.fields import Fields
from xplm.models.families.latent import (
    EXPERTS,
    LATENT,
    LATENT_DEFAULTS,
    read_latent_attention,
    require_dense,
    write_latent_attention,
)
from xplm.models.families.windows import FULL, require_layer_types
from xplm.specs import BlockSpec, RMSNormSpec


def read_blocks(hf: Fields) -> tuple[BlockSpec, ...]:
    """Blocks from config.json."""
    require_layer_types(hf, FULL)
    require_dense(hf)
    norm = RMSNormSpec(hf.number("rms_norm_eps", 1e-6))
    attention = read_latent_attention(hf, NEIGHBOURS)
    mlp = read_mlp(hf, is_gated=True, bias=hf.flag("mlp_bias"))
    return in_all_layers(hf, BlockSpec(attention, mlp, norm, norm))


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    block = config.blocks[0]
    return write_latent_attention(block.mixer) | {
        "first_k_dense_replace": config.num_hidden_layers,
        "mlp_bias": block.mlp.bias,
    }


DEEPSEEK_V2 = Family(
    "deepseek_v2",
    "DeepseekV2ForCausalLM",
    keys=(
        *(*COMMON, *SIZES, *ROPE, *LATENT, "rms_norm_eps"),
        *("first_k_dense_replace", "mlp_bias"),
    ),
    norm_eps_key="rms_norm_eps",
    hidden_act="silu",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    inert=(*EXPERTS, "topk_method", "output_router_logits", "qk_head_dim", "pretraining_tp"),
    defaults={
        "first_k_dense_replace": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **LATENT_DEFAULTS,
    },
)
