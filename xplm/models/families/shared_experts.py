"""Dense layers first, then routed experts beside one that all tokens take: DeepSeek's, and GLM's after it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from xplm.models.families.activations import read_activation
from xplm.models.families.experts import read_experts, write_experts
from xplm.models.families.fields import Fields
from xplm.specs import BlockSpec, ExpertsSpec, MLPSpec, RouterSpec

COUNT, WIDTH, N_DENSE = "n_routed_experts", "moe_intermediate_size", "first_k_dense_replace"

SHARED = (
    *(COUNT, WIDTH, N_DENSE, "n_shared_experts", "num_experts_per_tok"),
    *("n_group", "topk_group", "routed_scaling_factor"),
)
"""Keys of config.json."""


def read_dense_first(
    hf: Fields, dense: BlockSpec, read: Callable[[Fields], ExpertsSpec], n_dense: int
) -> tuple[BlockSpec, ...]:
    """The blocks, of which the first have the MLP of `dense` and the others experts.

    Args:
        hf: the config.json.
        dense: a block without experts.
        read: gives the experts, which a model of dense layers alone need not have.
        n_dense: dense layers, where config.json does not say.
    """
    layers, n_dense = hf.integer("num_hidden_layers"), hf.count(N_DENSE, n_dense)
    if n_dense >= layers:
        return (dense,) * layers
    routed = replace(dense, mlp=read(hf))
    return (dense,) * n_dense + (routed,) * (layers - n_dense)


def read_shared_experts(hf: Fields, router: RouterSpec, *, bias: bool = False) -> ExpertsSpec:
    """Experts, and `n_shared_experts` that all tokens take, as one MLP; `bias` is that of its matrices."""
    width = hf.integer("n_shared_experts") * hf.integer(WIDTH)
    shared = MLPSpec(width, read_activation(hf, is_gated=True), is_gated=True, bias=bias)
    return read_experts(hf, router, count=COUNT, width=WIDTH, shared=shared)


def read_scored_experts(hf: Fields) -> ExpertsSpec:
    """Experts of sigmoid scores, with a correction that chooses, in groups."""
    router = RouterSpec(
        "sigmoid",
        is_normalised=hf.flag("norm_topk_prob", True),
        factor=hf.number("routed_scaling_factor", 1.0),
        has_correction=True,
        num_groups=hf.integer("n_group", 1),
        kept_groups=hf.integer("topk_group", 1),
        group_score="best two",
    )
    return read_shared_experts(hf, router)


def write_dense_first(blocks: Sequence[BlockSpec]) -> dict[str, Any]:
    """The keys of these blocks, but for those of a family's router alone."""
    routed = [block.mlp for block in blocks if isinstance(block.mlp, ExpertsSpec)]
    keys: dict[str, Any] = {N_DENSE: len(blocks) - len(routed)}
    if len(routed) < len(blocks):
        keys["intermediate_size"] = blocks[0].mlp.intermediate_size
    if not routed:
        return keys
    experts = routed[0]
    assert experts.shared is not None
    return keys | {
        **write_experts(experts, count=COUNT, width=WIDTH),
        "routed_scaling_factor": experts.router.factor,
        "n_group": experts.router.num_groups,
        "topk_group": experts.router.kept_groups,
        "n_shared_experts": experts.shared.intermediate_size // experts.intermediate_size,
    }


def is_normalised(blocks: Sequence[BlockSpec]) -> bool:
    """`norm_topk_prob` of these blocks; true where none is routed."""
    return all(b.mlp.router.is_normalised for b in blocks if isinstance(b.mlp, ExpertsSpec))
