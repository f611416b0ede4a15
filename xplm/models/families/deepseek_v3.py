"""DeepSeek-V3 and R1: latent attention.   transformers: models/deepseek_v3"""

from typing import Any

from xplm.config import DecoderConfig
from xplm.kernels.rope import HALVES, NEIGHBOURS
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
    pairs = NEIGHBOURS if hf.flag("rope_interleave", True) else HALVES
    attention, mlp = read_latent_attention(hf, pairs), read_mlp(hf, is_gated=True, bias=False)
    return in_all_layers(hf, BlockSpec(attention, mlp, norm, norm))


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    block = config.blocks[0]
    return write_latent_attention(block.mixer) | {
        "first_k_dense_replace": config.num_hidden_layers,
        "rope_interleave": block.mixer.rope.pairs == NEIGHBOURS,
    }


DEEPSEEK_V3 = Family(
    "deepseek_v3",
    "DeepseekV3ForCausalLM",
    keys=(
        *(*COMMON, *SIZES, *ROPE, *LATENT, "rms_norm_eps"),
        *("first_k_dense_replace", "rope_interleave"),
    ),
    norm_eps_key="rms_norm_eps",
    hidden_act="silu",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    inert=(
        *EXPERTS,
        "num_mtp_layers",
        "num_nextn_predict_layers",
        "output_router_logits",
        "qk_head_dim",
        "pretraining_tp",
    ),
    defaults={
        "max_position_embeddings": 4096,
        "first_k_dense_replace": 3,
        "bos_token_id": 0,
        "eos_token_id": 1,
        **LATENT_DEFAULTS,
    },
)
