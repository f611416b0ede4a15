"""Dense layers first, then routed experts beside one that all tokens take: DeepSeek's, and GLM's after it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from xplm.errors import ConfigError
from xplm.models.families.activations import read_activation
from xplm.models.families.experts import (
    GGUF_COUNTS,
    GGUF_MODULES,
    GGUF_WIDTH,
    read_experts,
    read_gguf_counts,
    write_experts,
    write_gguf_counts,
)
from xplm.models.families.fields import Fields
from xplm.models.families.gguf import NEXTN, GGUFFile
from xplm.specs import BlockSpec, ExpertsSpec, MLPSpec, RouterSpec

COUNT, WIDTH, N_DENSE = "n_routed_experts", "moe_intermediate_size", "first_k_dense_replace"

SHARED = (
    *(COUNT, WIDTH, N_DENSE, "n_shared_experts", "num_experts_per_tok"),
    *("n_group", "topk_group", "routed_scaling_factor"),
)
"""Keys of config.json."""

GGUF_SCORES, SOFTMAX, SIGMOID = "expert_gating_func", 1, 2
GGUF_NORMALISED = "expert_weights_norm"
_DENSE, _SHARED = "leading_dense_block_count", "expert_shared_count"
_FACTOR = "expert_weights_scale"
_GROUPS, _KEPT = "expert_group_count", "expert_group_used_count"
GGUF_SHARED = (
    *(*GGUF_COUNTS, GGUF_WIDTH, GGUF_SCORES, NEXTN),
    *(_DENSE, _SHARED, _FACTOR, _GROUPS, _KEPT),
)
"""Keys of a GGUF file."""

SHARED_MODULES: Mapping[str, str] = {
    **GGUF_MODULES,
    **{f"mlp.shared_experts.{part}_proj": f"ffn_{part}_shexp" for part in ("gate", "up", "down")},
}
SHARED_TENSORS = {"mlp.gate.e_score_correction_bias": "exp_probs_b.bias"}


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


def read_gguf_dense_first(file: GGUFFile, scores: int) -> dict[str, Any]:
    """Layers and experts of a GGUF file, whose blocks may end with some that only predict further tokens.

    Args:
        file: the file.
        scores: the number of the family's scores, SOFTMAX or SIGMOID.

    Raises:
        ConfigError: the file has other scores.
    """
    if (got := file.integer(GGUF_SCORES, 0)) not in (0, scores):
        raise ConfigError(
            f"scores of experts must be a softmax ({SOFTMAX}) or sigmoids ({SIGMOID}), those of their family; "
            f"{file.architecture}.{GGUF_SCORES} is {got}"
        )
    layers = file.integer("block_count") - file.integer(NEXTN, 0)
    keys: dict[str, Any] = {"num_hidden_layers": layers, N_DENSE: file.integer(_DENSE, 0)}
    if keys[N_DENSE] >= layers:
        return keys
    return keys | {
        **read_gguf_counts(file, COUNT),
        WIDTH: file.integer(GGUF_WIDTH),
        "n_shared_experts": file.integer(_SHARED),
        "routed_scaling_factor": file.number(_FACTOR, 1.0),
        "n_group": file.integer(_GROUPS, 0) or 1,
        "topk_group": file.integer(_KEPT, 0) or 1,
    }


def write_gguf_dense_first(blocks: Sequence[BlockSpec], scores: int) -> dict[str, Any]:
    """The keys that these are read from, and those that llama.cpp asks for in a model of dense layers alone."""
    routed = [block.mlp for block in blocks if isinstance(block.mlp, ExpertsSpec)]
    keys = {_DENSE: len(blocks) - len(routed), GGUF_SCORES: scores}
    if not routed:
        return keys | {GGUF_WIDTH: blocks[0].mlp.intermediate_size, _SHARED: 0}
    experts = routed[0]
    assert experts.shared is not None
    groups = experts.router.num_groups
    return keys | {
        **write_gguf_counts(experts),
        GGUF_WIDTH: experts.intermediate_size,
        _SHARED: experts.shared.intermediate_size // experts.intermediate_size,
        _FACTOR: experts.router.factor,
        **({_GROUPS: groups, _KEPT: experts.router.kept_groups} if groups > 1 else {}),
    }
