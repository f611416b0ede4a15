"""The facts of docs/families.md about experts, derived from transformers' code."""

from __future__ import annotations

import math
from typing import Any

from tests.reference.family_facts import ABSENT, Fact, every, number, same, yes
from tests.reference.family_models import (
    CHOSEN,
    EXPERTS,
    HEADS,
    HIDDEN,
    INNER,
    TinyFamily,
)


def has_experts(tiny: TinyFamily) -> bool:
    return any(hasattr(part, "experts") for part in tiny.model.modules())


def full_size(tiny: TinyFamily) -> Any:
    """transformers' configuration with the keys of the tiny model and none of its sizes."""
    return type(tiny.config)(**tiny.keys)


def count(tiny: TinyFamily) -> str:
    config, names = full_size(tiny), ("n_routed_experts", "num_local_experts", "num_experts")
    return number(next(getattr(config, name) for name in names if hasattr(config, name)))


def chosen(tiny: TinyFamily) -> str:
    n = full_size(tiny).num_experts_per_tok
    return ABSENT if n is None else number(n)


def router_of(tiny: TinyFamily) -> Any:
    moe = tiny.mlp(tiny.layers - 1)
    return moe.gate if hasattr(moe, "gate") else moe.router


def routed(tiny: TinyFamily, x: Any, **attributes: Any) -> tuple[Any, Any, Any]:
    """The router's logits, weights (N, k) and indices (N, k), with some of its attributes set for the call."""
    router = router_of(tiny)
    kept = {name: getattr(router, name) for name in attributes}
    for name, value in attributes.items():
        setattr(router, name, value)
    with tiny.torch.no_grad():
        logits, weights, indices = router(x)
    for name, value in kept.items():
        setattr(router, name, value)
    return logits.float(), weights.float(), indices


def inputs(tiny: TinyFamily) -> Any:
    generator = tiny.torch.Generator().manual_seed(2)
    return tiny.torch.randn(64, HIDDEN, generator=generator)


def ungrouped(tiny: TinyFamily) -> dict[str, Any]:
    """Attributes of a router with which it has one group."""
    return {"num_group": 1, "topk_group": 1} if hasattr(router_of(tiny), "num_group") else {}


def scoring(tiny: TinyFamily) -> tuple[str, bool]:
    """The function of the scores, and whether the weights of a token are divided by their sum.

    The softmax of the chosen logits is the softmax of all of them divided by its sum over the chosen.
    """
    logits, weights, indices = routed(tiny, inputs(tiny), **ungrouped(tiny))
    weights = weights / float(getattr(router_of(tiny), "routed_scaling_factor", 1.0))
    best = logits.topk(CHOSEN, dim=-1).indices
    assert (indices.sort(dim=-1).values == best.sort(dim=-1).values).all()
    scores = {"softmax": logits.softmax(dim=-1), "sigmoid": logits.sigmoid()}
    found = []
    for name, value in scores.items():
        taken = value.gather(1, indices)
        divided = taken / taken.sum(-1, keepdim=True)
        found += [
            (name, is_divided)
            for is_divided, w in ((False, taken), (True, divided))
            if same(weights, w)
        ]
    (answer,) = found
    return answer


def correction(tiny: TinyFamily) -> str:
    """Whether a bias on the scores chooses experts, and leaves their weights alone."""
    router = router_of(tiny)
    if not hasattr(router, "e_score_correction_bias"):
        return ABSENT
    torch, bias = tiny.torch, router.e_score_correction_bias
    raised = torch.zeros_like(bias)
    raised[3] = 10.0
    options = {**ungrouped(tiny), "e_score_correction_bias": raised, "norm_topk_prob": False}
    logits, weights, indices = routed(tiny, inputs(tiny), **options)
    assert (indices == 3).any(dim=-1).all()
    scores = logits.sigmoid().gather(1, indices) * router.routed_scaling_factor
    assert same(weights, scores)
    return "chooses only"


def groups(tiny: TinyFamily) -> str:
    """The default numbers of groups and of those kept, and a group's score."""
    router, x = router_of(tiny), inputs(tiny)
    if not hasattr(router, "num_group"):
        return ABSENT
    logits, _, indices = routed(tiny, x, num_group=2, topk_group=1)
    taken = indices // (EXPERTS // 2)
    if (taken != taken[:, :1]).any():
        return ABSENT
    scores = logits.sigmoid() if scoring(tiny)[0] == "sigmoid" else logits.softmax(-1)
    grouped = scores.reshape(len(x), 2, EXPERTS // 2)
    by = {"best two": grouped.topk(2, dim=-1).values.sum(-1), "best": grouped.max(-1).values}
    (name,) = [name for name, value in by.items() if (value.argmax(-1) == taken[:, 0]).all()]
    default = full_size(tiny)
    sizes = f"{default.n_group}, {default.topk_group} kept, " if default.n_group else ""
    return f"{sizes}by the {name}"


def times(tiny: TinyFamily) -> str:
    router = router_of(tiny)
    if not hasattr(router, "routed_scaling_factor"):
        return ABSENT
    x, factor = inputs(tiny), router.routed_scaling_factor
    _, weights, _ = routed(tiny, x)
    _, doubled, _ = routed(tiny, x, routed_scaling_factor=2 * factor)
    assert same(doubled, 2 * weights)
    return number(factor)


def shared(tiny: TinyFamily) -> str:
    """The number of experts that every token takes, as widths of a routed one, and a gate on them."""
    moe = tiny.mlp(tiny.layers - 1)
    parts = [name for name in ("shared_expert", "shared_experts") if hasattr(moe, name)]
    if not parts:
        return ABSENT
    expert = getattr(moe, parts[0])
    n = expert.down_proj.weight.shape[1] // INNER
    return f"{n}, sigmoid gate" if hasattr(moe, "shared_expert_gate") else f"{n}"


def dense_layers(tiny: TinyFamily) -> str:
    dense = [layer for layer in range(tiny.layers) if not hasattr(tiny.mlp(layer), "experts")]
    if dense and dense == list(range(len(dense))):
        return f"first {len(dense)}"
    return every(dense, tiny.layers)


def width_key(tiny: TinyFamily) -> str:
    """The key that an expert's width stands under."""
    other = tiny.like(intermediate_size=INNER + 8)
    unchanged = INNER in other.mlp(other.layers - 1).experts.down_proj.shape
    return "moe_intermediate_size" if unchanged else "intermediate_size"


EXPERT_FACTS: dict[str, Fact] = {
    "experts": count,
    "chosen": chosen,
    "scores": lambda tiny: scoring(tiny)[0],
    "divided by their sum": lambda tiny: yes(scoring(tiny)[1]),
    "× weights": times,
    "router bias": lambda tiny: "yes" if hasattr(router_of(tiny), "bias") else ABSENT,
    "correction": correction,
    "groups": groups,
    "shared": shared,
    "dense layers": dense_layers,
    "width": width_key,
}


def latent(key: str) -> Fact:
    """A size of latent attention in transformers' default configuration, which the tiny model's weights have."""

    def size(tiny: TinyFamily) -> str:
        config, part = tiny.config, tiny.attention()
        heads, nope, rope = HEADS, config.qk_nope_head_dim, config.qk_rope_head_dim
        assert part.q_a_proj.weight.shape[0] == config.q_lora_rank
        assert part.q_b_proj.weight.shape == (heads * (nope + rope), config.q_lora_rank)
        assert part.kv_a_proj_with_mqa.weight.shape[0] == config.kv_lora_rank + rope
        assert part.kv_b_proj.weight.shape == (
            heads * (nope + config.v_head_dim),
            config.kv_lora_rank,
        )
        assert part.o_proj.weight.shape[1] == heads * config.v_head_dim
        return number(getattr(full_size(tiny), key))

    return size


def inner_eps(tiny: TinyFamily) -> str:
    part = tiny.like(rms_norm_eps=0.5).attention()
    assert part.q_a_layernorm.variance_epsilon == part.kv_a_layernorm.variance_epsilon
    return number(part.kv_a_layernorm.variance_epsilon)


def yarn_scale(tiny: TinyFamily) -> str:
    """The factor on the attention's scale that yarn's mscale_all_dim brings."""
    yarn = {"rope_type": "yarn", "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 1.0}
    part = tiny.like(rope_scaling=yarn).attention()
    mscale = 0.1 * math.log(4.0) + 1.0
    assert math.isclose(part.scaling, mscale**2 * part.qk_head_dim**-0.5)
    return "mscale²"


LATENT: dict[str, Fact] = {
    "rank of q": latent("q_lora_rank"),
    "rank of k, v": latent("kv_lora_rank"),
    "D without RoPE": latent("qk_nope_head_dim"),
    "D with RoPE": latent("qk_rope_head_dim"),
    "D of v": latent("v_head_dim"),
    "inner eps": inner_eps,
    "yarn scales by": yarn_scale,
}
