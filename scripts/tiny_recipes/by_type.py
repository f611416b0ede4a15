"""Tiny models of families with full and sliding layers that differ in more than their window, and of their kin."""

from typing import Any

from tiny_recipes.recipe import ENDLESS, FAR, NARROW, Recipe, yarn

FEW_SEEN = {"sliding_window": 16, "num_hidden_layers": 4}
GEMMA2 = {"query_pre_attn_scalar": 20, "final_logit_softcapping": 4.0, "sliding_window": 16}
FULL_YARN = yarn(32, rope_theta=2000.0)
FULL_LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 3000.0}
FAR_LINEAR = {"rope_type": "linear", "factor": 40.0, "rope_theta": 1e6}


def ropes(full: dict[str, Any], sliding_theta: float) -> dict[str, Any]:
    """The RoPE of full layers, and the theta of the others."""
    sliding = {"rope_type": "default", "rope_theta": sliding_theta}
    return {"rope_parameters": {"full_attention": full, "sliding_attention": sliding}}


BY_TYPE = {
    "olmo2": Recipe(ENDLESS, model_type="olmo2"),
    "olmo2-bias-head-dim-yarn-old": Recipe(
        ENDLESS | {"attention_bias": True, "head_dim": 12, "tie_word_embeddings": True},
        yarn(32),
        "olmo2",
        old_spelling=True,
    ),
    "olmo3": Recipe(ENDLESS | FEW_SEEN | ropes(FULL_YARN, 2000.0), model_type="olmo3"),
    "olmo3-old": Recipe(
        ENDLESS | FEW_SEEN | ropes(FULL_YARN, 500_000.0), model_type="olmo3", old_spelling=True
    ),
    "olmo3-layer-types-bias": Recipe(
        ENDLESS
        | {"sliding_window": 16, "layer_types": ["full_attention", "sliding_attention"]}
        | {"attention_bias": True}
        | ropes(FULL_LINEAR, 500.0),
        model_type="olmo3",
    ),
    "olmo3-far": Recipe(
        FAR | FEW_SEEN | {"sliding_window": 600} | ropes(yarn(32, factor=40.0), 10_000.0),
        model_type="olmo3",
    ),
    "gemma2": Recipe(
        ENDLESS | NARROW | GEMMA2 | {"attn_logit_softcapping": 2.0}, model_type="gemma2"
    ),
    "gemma2-uncapped-linear-old": Recipe(
        ENDLESS
        | {"head_dim": 12, "attention_bias": True, "tie_word_embeddings": False}
        | {"final_logit_softcapping": None, "attn_logit_softcapping": None, "sliding_window": 16}
        | {"layer_types": ["full_attention", "sliding_attention"]},
        {"rope_type": "linear", "factor": 4.0},
        "gemma2",
        old_spelling=True,
    ),
    "gemma3_text": Recipe(
        ENDLESS
        | NARROW
        | {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
        | {"query_pre_attn_scalar": 20, "rope_parameters": None},
        model_type="gemma3_text",
    ),
    "gemma3_text-linear-old": Recipe(
        ENDLESS
        | GEMMA2
        | {"head_dim": 12, "attention_bias": True, "tie_word_embeddings": False}
        | {"attn_logit_softcapping": 0.1, "sliding_window_pattern": 3, "num_hidden_layers": 3}
        | ropes(FULL_LINEAR, 500.0),
        model_type="gemma3_text",
        old_spelling=True,
    ),
    "gemma3_text-far": Recipe(
        FAR
        | NARROW
        | {"sliding_window": 600, "layer_types": ["sliding_attention", "full_attention"]}
        | ropes(FAR_LINEAR, 10_000.0),
        model_type="gemma3_text",
    ),
}
