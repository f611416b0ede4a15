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
from xplm.models.families.latent import (
    LATENT,
    LATENT_DEFAULTS,
    read_latent_attention,
    write_latent_attention,
)
from xplm.models.families.shared_experts import (
    COUNT,
    SHARED,
    read_dense_first,
    read_shared_experts,
    write_dense_first,
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
)
