"""Routed experts that several families have."""

from collections.abc import Mapping, Sequence
from reprlib import repr as shown  # a value of any length, cut short
from typing import Any

from xplm.errors import ConfigError
from xplm.models.families.activations import read_activation
from xplm.models.families.fields import Fields
from xplm.models.families.gguf import GGUFFile
from xplm.specs import BlockSpec, ExpertsSpec, RouterSpec

BALANCE = ("output_router_logits", "router_aux_loss_coef")
"""Keys of the load-balancing loss, which transformers adds where it returns the router's logits."""

SPARSE = ("mlp_only_layers", "decoder_sparse_step")
"""Keys of Qwen's layers with one dense MLP."""

NUMBERED = {
    f"mlp.experts.{part}_proj": f"mlp.experts.{{}}.{part}_proj" for part in ("gate", "up", "down")
}
"""Modules of files that hold each expert by itself."""

GGUF_MODULES: Mapping[str, str] = {
    "mlp.gate": "ffn_gate_inp",
    **{f"mlp.experts.{part}_proj": f"ffn_{part}_exps" for part in ("gate", "up", "down")},
}
"""GGUF's modules, with all experts of a layer in one tensor."""

GGUF_COUNTS = ("expert_count", "expert_used_count")
GGUF_WIDTH = "expert_feed_forward_length"


def read_experts(
    hf: Fields, router: RouterSpec, *, count: str, width: str, **facts: Any
) -> ExpertsSpec:
    """Experts of the sizes that config.json gives.

    Args:
        hf: the config.json.
        router: of the family.
        count: the key of the number of experts.
        width: the key of an expert's width.
        facts: further fields of the ExpertsSpec.

    Raises:
        ConfigError: more experts are chosen than there are, or than the kept groups hold.
    """
    E, k = hf.integer(count), hf.integer("num_experts_per_tok")
    if k > E:
        raise ConfigError(f"num_experts_per_tok is at most {count}, {E}; got {k}")
    _check_groups(router, E, k)
    activation = read_activation(hf, is_gated=True)
    return ExpertsSpec(E, k, hf.integer(width), router, activation, **facts)


def _check_groups(router: RouterSpec, E: int, k: int) -> None:
    """Refuse groups from which the router cannot choose k of E experts."""
    groups, kept = router.num_groups, router.kept_groups
    size, least = E // groups, 2 if router.group_score == "best two" else 1
    if E % groups or size < least:
        raise ConfigError(
            f"n_group divides the {E} experts into equal groups of {least} or more; got {groups}"
        )
    if kept > groups:
        raise ConfigError(f"topk_group is at most n_group, {groups}; got {kept}")
    if kept * size < k:
        raise ConfigError(
            f"the topk_group groups that are kept hold num_experts_per_tok experts, {k}, or more; "
            f"got {kept} of {size}"
        )


def read_balance(hf: Fields) -> float:
    """The coefficient of the load-balancing loss, 0 where it is not asked for."""
    if not hf.flag("output_router_logits") or hf.get("router_aux_loss_coef") == 0:
        return 0.0
    return hf.number("router_aux_loss_coef")


def write_experts(experts: ExpertsSpec, *, count: str, width: str) -> dict[str, Any]:
    """The keys that these experts are read from."""
    balance = experts.router.balance
    return {
        count: experts.num_experts,
        "num_experts_per_tok": experts.num_experts_per_tok,
        width: experts.intermediate_size,
        "output_router_logits": balance > 0.0,
        **({"router_aux_loss_coef": balance} if balance else {}),
    }


def routed_block(config_blocks: Sequence[BlockSpec]) -> tuple[BlockSpec, ExpertsSpec]:
    """The first block with experts, and these."""
    for block in config_blocks:
        if isinstance(block.mlp, ExpertsSpec):
            return block, block.mlp
    raise ConfigError("a model of routed experts must have a layer of them; got dense layers alone")


def read_sparse_layers(hf: Fields) -> tuple[bool, ...]:
    """Whether each layer is routed: every `decoder_sparse_step`-th, without `mlp_only_layers`."""
    layers, step = hf.integer("num_hidden_layers"), hf.integer("decoder_sparse_step", 1)
    dense = hf.get("mlp_only_layers") or []
    if not isinstance(dense, list) or not all(type(i) is int for i in dense):
        raise ConfigError(f"mlp_only_layers is a list of layers; got {shown(dense)}")
    return tuple(i not in dense and (i + 1) % step == 0 for i in range(layers))


def write_sparse_layers(blocks: Sequence[BlockSpec]) -> dict[str, Any]:
    """Qwen's keys, and the width of the dense layers."""
    dense = [i for i, block in enumerate(blocks) if not isinstance(block.mlp, ExpertsSpec)]
    keys: dict[str, Any] = {"mlp_only_layers": dense, "decoder_sparse_step": 1}
    return keys | ({"intermediate_size": blocks[dense[0]].mlp.intermediate_size} if dense else {})


def read_gguf_counts(file: GGUFFile, count: str) -> dict[str, Any]:
    """Numbers of experts of a GGUF file."""
    there, chosen = (file.integer(key) for key in GGUF_COUNTS)
    return {count: there, "num_experts_per_tok": chosen}


def write_gguf_counts(experts: ExpertsSpec) -> dict[str, Any]:
    """The opposite."""
    return dict(zip(GGUF_COUNTS, (experts.num_experts, experts.num_experts_per_tok), strict=True))
