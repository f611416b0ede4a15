"""DeepSeek-V2: latent attention, dense layers, then experts beside two that all tokens take.

transformers: models/deepseek_v2
"""

from reprlib import repr as shown  # a value of any length, cut short
from typing import Any

from xplm.config import DecoderConfig
from xplm.errors import ConfigError
from xplm.kernels.rope import NEIGHBOURS
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
    GGUF_SHARED,
    SHARED,
    SHARED_MODULES,
    SOFTMAX,
    read_dense_first,
    read_gguf_dense_first,
    read_shared_experts,
    write_dense_first,
    write_gguf_dense_first,
)
from xplm.models.families.windows import FULL, require_layer_types
from xplm.specs import BlockSpec, ExpertsSpec, RMSNormSpec, RouterSpec

METHODS = ("greedy", "group_limited_greedy")
"""How experts are chosen: of all, or of the groups with the best ones."""


def read_blocks(hf: Fields) -> tuple[BlockSpec, ...]:
    """Blocks from config.json."""
    require_layer_types(hf, FULL)
    norm = RMSNormSpec(hf.number("rms_norm_eps", 1e-6))
    attention = read_latent_attention(hf, NEIGHBOURS)
    mlp = read_mlp(hf, is_gated=True, bias=hf.flag("mlp_bias"))
    return read_dense_first(hf, BlockSpec(attention, mlp, norm, norm), read_softmax_experts, 0)


def read_softmax_experts(hf: Fields) -> ExpertsSpec:
    """Experts of softmax scores, of the best groups where `topk_method` says so; `norm_topk_prob` says nothing."""
    method = hf.get("topk_method")
    if method not in METHODS:
        raise ConfigError(f"topk_method is one of {', '.join(METHODS)}; got {shown(method)}")
    in_groups = method == METHODS[1]
    router = RouterSpec(
        "softmax",
        is_normalised=False,
        factor=hf.number("routed_scaling_factor"),
        num_groups=hf.integer("n_group") if in_groups else 1,
        kept_groups=hf.integer("topk_group") if in_groups else 1,
    )
    return read_shared_experts(hf, router, bias=hf.flag("mlp_bias"))


def write_blocks(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these blocks are read from."""
    block = config.blocks[0]
    mlp = block.mlp.shared if isinstance(block.mlp, ExpertsSpec) else block.mlp
    assert mlp is not None, "some experts are shared"
    dense_first = write_dense_first(config.blocks)
    return {
        **write_latent_attention(block.mixer),
        **dense_first,
        "topk_method": METHODS[dense_first.get("n_group", 1) > 1],
        "mlp_bias": mlp.bias,
    }


def read_gguf(file: GGUFFile) -> dict[str, Any]:
    """Latent attention and experts, in groups by the best one, as DeepSeek-V2 has them."""
    experts = read_gguf_dense_first(file, SOFTMAX)
    method = METHODS[experts.get("n_group", 1) > 1]
    return read_gguf_latent(file) | experts | {"topk_method": method}


def write_gguf(config: DecoderConfig) -> dict[str, Any]:
    """The keys that these are read from.

    Raises:
        ConfigError: experts are in groups, which llama.cpp chooses by their best two.
    """
    groups = write_dense_first(config.blocks).get("n_group", 1)
    if groups > 1:
        raise ConfigError(
            f"experts must be in one group, for llama.cpp chooses groups by their best two experts and a deepseek_v2 "
            f"by the best; this model has {groups} groups; keep it as a Hugging Face directory"
        )
    experts = write_gguf_dense_first(config.blocks, SOFTMAX)
    return write_gguf_latent(config.blocks[0].mixer) | experts


DEEPSEEK_V2 = Family(
    "deepseek_v2",
    "DeepseekV2ForCausalLM",
    keys=(
        *(*COMMON, *SIZES, *ROPE, *LATENT, "rms_norm_eps"),
        *("mlp_bias", "topk_method", *SHARED),
    ),
    norm_eps_key="rms_norm_eps",
    hidden_act="silu",
    read_blocks=read_blocks,
    write_blocks=write_blocks,
    inert=("norm_topk_prob", "output_router_logits", "qk_head_dim", "pretraining_tp"),
    spelling={"num_experts": COUNT},
    aliases=("num_experts",),
    defaults={
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "moe_intermediate_size": 1407,
        "routed_scaling_factor": 1.0,
        "topk_method": "greedy",
        "bos_token_id": 1,
        "eos_token_id": 2,
        **LATENT_DEFAULTS,
    },
    modules=NUMBERED,
    gguf=(
        GGUFLayout(
            "deepseek2",
            keys=(*GGUF_LATENT, *GGUF_SHARED),
            read=read_gguf,
            write=write_gguf,
            modules={**LATENT_MODULES, **SHARED_MODULES},
            by_head=GGUF_BY_HEAD,
        ),
    ),
)
