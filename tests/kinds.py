"""Which tiny models the short run takes: those that between them have every kind of layer."""

from typing import Any

import pytest

from xplm.numerics.tiny_models import TINY_MODELS

FIRST = ("llama", "mistral", "qwen2", "qwen3", "gpt2", "starcoder2", "phi")
"""Families of which the short run takes every flag."""
KINDS = ("gemma3_text", "qwen3_moe", "deepseek_v3")
"""One family for each kind of block that those do not have."""


def is_short(name: str) -> bool:
    """Whether a model of TINY_MODELS is in the short run; of no family are those that show a field of a spec."""
    keys = TINY_MODELS[name]
    return "decoder" in keys or keys.get("model_type", "llama") in (*FIRST, *KINDS)


every_kind = pytest.mark.parametrize(
    "name",
    [
        name if is_short(name) else pytest.param(name, marks=pytest.mark.nightly)
        for name in TINY_MODELS
    ],
)
"""TINY_MODELS; other families' nightly. Their logits and gradients are compared with torch's in the short run."""


def nightly_unless_first(model_type: str) -> Any:
    """The mark of what is asked of every family."""
    return () if model_type in FIRST else pytest.mark.nightly
