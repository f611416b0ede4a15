"""DeepSeek-V3 and R1: latent attention, dense layers, then experts scored by sigmoids beside one that all tokens take.

transformers: models/deepseek_v3
"""

from typing import Any

from xplm.config import DecoderConfig
from xplm.kernels.rope import HALVES, NEIGHBOURS
from xplm.models.families.activations import read_mlp
from xplm.models.families.experts import NUMBERED
from xplm.models.families.family import COMMON, ROPE, SIZES, Family
from xplm.models.families.fields import Fields
from xplm.models.families.gguf import GGUFFile, GGUFLayout
from xplm.models.families.latent import (
    GGUF_BY_HEAD,
    GGUF_LATENT,
    LATENT,
    LATENT_DEFAULTS,
    LATENT_MODULES,
    read_gguf_latent,
    read_latent_attention,
    write_gguf_latent,
    write_latent_attention,
)
from xplm.models.families.shared_experts import (
    COUNT,
    GGUF_NORMALISED,
    GGUF_SCORES,
    GGUF_SHARED,
    SHARED,
    SHARED_MODULES,
    SHARED_TENSORS,
    SIGMOID,
    is_normalised,
    read_dense_first,
    read_gguf_dense_first,
    read_scored_experts,
    write_dense_first,
    write_gguf_dense_first,
)
from xplm.models.families.windows import FULL, require_layer_types
from xplm.specs import BlockSpec, RMSNormSpec


def read_blocks(hf: Fields) -> tuple[BlockSpec, ...]:
    """Blocks from config.json."""
    require_layer_types(hf, FULL)
    norm = RMSNormSpec(hf.number("rms_norm_eps", 1e-6))
    pairs = NEIGHBOURS if hf.flag("rope_interleave", True) else HALVES
    attention, mlp = read_latent_attention(hf, pairs), read_mlp(hf, is_gated=True, bias=False)
    return read_dense_first(hf, BlockSpec(attention, mlp, norm, norm), read_scored_experts, 3)


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    block = config.blocks[0]
    return {
        **write_latent_attention(block.mixer),
        **write_dense_first(config.blocks),
        "norm_topk_prob": is_normalised(config.blocks),
        "rope_interleave": block.mixer.rope.pairs == NEIGHBOURS,
    }


def claims_gguf(file: GGUFFile) -> bool:
    """Whether a deepseek2 of a GGUF file is a DeepSeek-V3: its experts are scored by sigmoids."""
    return file.integer(GGUF_SCORES, 0) == SIGMOID


def read_gguf(file: GGUFFile) -> dict[str, Any]:
    """Latent attention and experts."""
    by_sum = {"norm_topk_prob": file.flag(GGUF_NORMALISED, False)}
    return read_gguf_latent(file) | read_gguf_dense_first(file, SIGMOID) | by_sum


def write_gguf(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these are read from."""
    experts = write_gguf_dense_first(config.blocks, SIGMOID)
    by_sum = {GGUF_NORMALISED: is_normalised(config.blocks)}
    return write_gguf_latent(config.blocks[0].mixer) | experts | by_sum


DEEPSEEK_V3 = Family(
    "deepseek_v3",
    "DeepseekV3ForCausalLM",
    keys=(
        *(*COMMON, *SIZES, *ROPE, *LATENT, "rms_norm_eps"),
        *("rope_interleave", "norm_topk_prob", *SHARED),
    ),
    norm_eps_key="rms_norm_eps",
    hidden_act="silu",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    inert=(
        "num_nextn_predict_layers",
        "output_router_logits",
        "qk_head_dim",
        "pretraining_tp",
    ),
    spelling={"num_local_experts": COUNT, "num_mtp_layers": "num_nextn_predict_layers"},
    aliases=("num_local_experts", "num_mtp_layers"),
    defaults={
        "max_position_embeddings": 4096,
        "n_routed_experts": 256,
        "num_experts_per_tok": 8,
        "n_shared_experts": 1,
        "moe_intermediate_size": 2048,
        "routed_scaling_factor": 2.5,
        "n_group": 8,
        "topk_group": 4,
        "bos_token_id": 0,
        "eos_token_id": 1,
        **LATENT_DEFAULTS,
    },
    modules=NUMBERED,
    gguf=(
        GGUFLayout(
            "deepseek2",
            claims=claims_gguf,
            keys=(*GGUF_LATENT, *GGUF_SHARED, GGUF_NORMALISED),
            read=read_gguf,
            write=write_gguf,
            modules={**LATENT_MODULES, **SHARED_MODULES},
            tensors=SHARED_TENSORS,
            by_head=GGUF_BY_HEAD,
        ),
    ),
)
