"""The facts of docs/families.md about positions, derived from transformers' code."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import Any
from unittest import mock

from huggingface_hub.errors import StrictDataclassError

from tests.reference.family_facts import (
    ABSENT,
    Fact,
    embedded,
    every,
    head_width,
    number,
    position_table,
    same,
)
from tests.reference.family_models import T, TinyFamily, default_config

ROTATIONS = ("apply_rotary_pos_emb_interleave", "apply_rotary_emb", "apply_rotary_pos_emb")
"""Names under which a family's source has the function that rotates q and k."""


def learned_positions(tiny: TinyFamily) -> str | None:
    table, first = position_table(tiny)
    if table is None:
        return None
    assert same(*embedded(tiny))  # adding the table's rows is all that positions do
    return f"learned, from row {first}" if first else "learned"


def rotation(tiny: TinyFamily, name: str) -> Callable[..., Any] | None:
    return getattr(tiny.source, name, None)


def used_rotation(tiny: TinyFamily) -> str:
    """The name of the function that the forward pass calls."""
    called = {name for name, _ in rotations_called(tiny)}
    (name,) = called
    return name


@cache
def rotations_called(tiny: TinyFamily) -> list[tuple[str, int]]:
    """The functions that a forward pass rotates with, each with the layer that called it."""
    called: list[tuple[str, int]] = []
    layer = [-1]
    handles = [
        tiny.attention(index).register_forward_pre_hook(
            lambda *_, index=index: layer.__setitem__(0, index)
        )
        for index in range(tiny.layers)
    ]
    patches = []
    for name in ROTATIONS:
        function = rotation(tiny, name)
        if function is not None:
            spy = mock.Mock(side_effect=_noted(function, name, called, layer))
            patches.append(mock.patch.object(tiny.source, name, spy))
    for patch in patches:
        patch.start()
    with tiny.torch.no_grad():
        tiny.model(tiny.ids, use_cache=False)
    for patch in patches:
        patch.stop()
    for handle in handles:
        handle.remove()
    return called


def _noted(function: Any, name: str, called: list[tuple[str, int]], layer: list[int]) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        called.append((name, layer[0]))
        return function(*args, **kwargs)

    return call


def pairs(tiny: TinyFamily) -> str:
    """Which entry of a head is rotated together with entry 0: the one half of R away, or entry 1."""
    learned = learned_positions(tiny)
    if learned:
        return learned
    if getattr(tiny.config, "alibi", False):
        assert not rotations_called(tiny)
        return "ALiBi"
    torch, function = tiny.torch, rotation(tiny, used_rotation(tiny))
    angles, rotated = rotary_angles(tiny)
    basis = torch.eye(rotated).reshape(rotated, 1, 1, rotated).expand(rotated, 1, T, rotated)
    arguments = angles if isinstance(angles, tuple) else (angles,)
    out, _ = function(
        basis, basis, *[angle.expand(rotated, *angle.shape[1:]) for angle in arguments]
    )
    touched = out[:, 0, -1].abs() > 1e-6  # (R inputs, R outputs)
    partners = [j for j in range(1, rotated) if (touched[0] & touched[j]).any()]
    (partner,) = partners
    return {1: "neighbours", rotated // 2: "halves"}[partner]


def rotary_angles(tiny: TinyFamily) -> tuple[Any, int]:
    """What the model's rotary embedding gives, and R, the entries of a head that it rotates."""
    torch = tiny.torch
    rotary = rotary_of(tiny)
    x, positions = torch.zeros(1, T, 1), torch.arange(T)[None]
    layer_types = getattr(rotary, "layer_types", None)
    angles = rotary(x, positions, layer_types[0]) if layer_types else rotary(x, positions)
    return angles, 2 * frequencies(tiny)[0].shape[0]


def rotary_of(tiny: TinyFamily) -> Any:
    (part,) = [part for name, part in tiny.model.named_modules() if name.endswith("rotary_emb")]
    return part


def frequencies(tiny: TinyFamily, config: Any = None) -> list[Any]:
    """The inverse frequencies: one array, or those of the full and of the sliding layers."""
    rotary = rotary_of(tiny) if config is None else type(rotary_of(tiny))(config)
    names = ["inv_freq", "full_attention_inv_freq", "sliding_attention_inv_freq"]
    return [getattr(rotary, name) for name in names if hasattr(rotary, name)]


def share(tiny: TinyFamily) -> str:
    """R / D, with transformers' default sizes where the tiny ones are none of its keys."""
    if position_table(tiny)[0] is not None:
        return ABSENT
    config = default_config(tiny.transformers, tiny.model_type)
    if hasattr(config, "qk_rope_head_dim") and not tiny.keys:
        return str(Fraction(config.qk_rope_head_dim, config.qk_head_dim))
    return str(Fraction(2 * frequencies(tiny)[0].shape[0], head_width(tiny.attention())))


def theta(tiny: TinyFamily) -> str:
    parameters = getattr(tiny.config, "rope_parameters", None)
    if parameters is None:
        return ABSENT
    if "full_attention" not in parameters:
        return number(parameters["rope_theta"])
    full, sliding = (
        parameters[name]["rope_theta"] for name in ("full_attention", "sliding_attention")
    )
    return number(full) if full == sliding else f"{number(full)}, sliding {number(sliding)}"


def scaling(tiny: TinyFamily) -> str:
    """The types that a key rope_scaling may ask for, and the layers that it changes."""
    if position_table(tiny)[0] is not None:
        return ABSENT
    config = default_config(tiny.transformers, tiny.model_type)
    default = config.rope_parameters.get("rope_type", "default")
    before = frequencies(tiny)
    wanted = {"rope_type": "linear", "factor": 2.0}
    try:
        after = frequencies(tiny, tiny.like(rope_scaling=wanted).config)
    except StrictDataclassError as error:
        (only,) = re.findall(r"must be one of \['(\w+)'\]", str(error))
        return only
    if default == "yarn":
        return f"any; absent: yarn by {number(config.rope_parameters['factor'])}"
    changed = [same(new, old / 2) for new, old in zip(after, before, strict=True)]
    assert changed[0]
    return "any" if all(changed) else "any, of full layers"


def without_rope(tiny: TinyFamily) -> str:
    if position_table(tiny)[0] is not None:
        return ABSENT
    rotated = {layer for _, layer in rotations_called(tiny)}
    return every([layer for layer in range(tiny.layers) if layer not in rotated], tiny.layers)


def window(tiny: TinyFamily) -> str:
    """The layers whose mask hides the first position from the last, and transformers' default width."""
    masks = [
        tiny.call(f"attention.{layer}").options.get("attention_mask")
        for layer in range(tiny.layers)
    ]
    if any(mask is None for mask in masks):
        return ABSENT
    hidden = [layer for layer, mask in enumerate(masks) if mask[0, 0, -1, 0] < 0]
    for layer in hidden:
        assert (masks[layer][0, 0, -1] == 0).sum() == tiny.config.sliding_window
    default = getattr(default_config(tiny.transformers, tiny.model_type), "sliding_window", None)
    words = every(hidden, tiny.layers)
    width = tiny.keys.get("sliding_window", default)
    return f"{words}, {number(width)}" if hidden and width else words


POSITIONS: dict[str, Fact] = {
    "pairs": pairs,
    "share": share,
    "theta": theta,
    "scaling": scaling,
    "no RoPE": without_rope,
    "window": window,
}
