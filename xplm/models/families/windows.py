"""Sliding windows by layer, as config.json gives them, and back."""

from collections.abc import Sequence
from reprlib import repr as shown  # a value of any length, cut short
from typing import Any

from xplm.errors import ConfigError
from xplm.models.families.fields import Fields
from xplm.specs import BlockSpec

FULL, SLIDING = "full_attention", "sliding_attention"

SWITCHED = ("use_sliding_window", "sliding_window", "max_window_layers")
"""Keys of a family whose windows are switched on, and then cover some of its layers."""

SWITCHED_DEFAULTS = {"sliding_window": 4096, "max_window_layers": 28}
"""What transformers takes where these keys are left out."""


def read_window(hf: Fields) -> int | None:
    """`sliding_window`, the same in all layers; `layer_types` must agree."""
    window = None if hf.get("sliding_window") is None else hf.integer("sliding_window")
    require_layer_types(hf, FULL if window is None else SLIDING)
    return window


def read_switched_windows(hf: Fields) -> tuple[int | None, ...]:
    """Qwen's: where `use_sliding_window` is set, the layers that `layer_types` names, or those from
    `max_window_layers` on.
    """
    layers = hf.integer("num_hidden_layers")
    is_on = hf.flag("use_sliding_window") and hf.get("sliding_window") is not None
    kinds = read_layer_types(hf)
    if not is_on and SLIDING in (kinds or ()):
        raise ConfigError(
            f"layer_types may name {SLIDING} where use_sliding_window is true and sliding_window a number; "
            f"got {shown(hf.get('use_sliding_window'))} and {shown(hf.get('sliding_window'))}"
        )
    if not is_on:
        return (None,) * layers
    window = hf.integer("sliding_window")
    if kinds is not None:
        return tuple(window if kind == SLIDING else None for kind in kinds)
    begin = hf.get("max_window_layers")
    if isinstance(begin, bool) or not isinstance(begin, int) or begin < 0:
        raise ConfigError(f"max_window_layers is a number of layers; got {shown(begin)}")
    return tuple(window if layer >= begin else None for layer in range(layers))


def write_switched_windows(blocks: Sequence[BlockSpec]) -> dict[str, Any]:
    """Qwen's keys."""
    keys = write_windows_by_layer_type(blocks)
    window = keys["sliding_window"]
    return {"sliding_window": window, "use_sliding_window": window is not None} | keys


def read_windows_by_pattern(hf: Fields) -> tuple[int | None, ...]:
    """`sliding_window` in the sliding layers of `layer_types`, or else in all but every `sliding_window_pattern`-th."""
    kinds = read_layer_types(hf)
    if kinds is None:
        period = hf.integer("sliding_window_pattern")
        layers = range(1, hf.integer("num_hidden_layers") + 1)
        kinds = [SLIDING if layer % period else FULL for layer in layers]
    window = hf.integer("sliding_window") if SLIDING in kinds else None
    return tuple(window if kind == SLIDING else None for kind in kinds)


def write_windows_by_layer_type(blocks: Sequence[BlockSpec]) -> dict[str, Any]:
    """Its keys."""
    windows = [block.mixer.window for block in blocks]
    return {
        "sliding_window": next((w for w in windows if w is not None), None),
        "layer_types": [SLIDING if w else FULL for w in windows],
    }


def require_layer_types(hf: Fields, kind: str) -> None:
    """Refuse layers of more than one kind, where a family's class in transformers has one."""
    odd = [other for other in read_layer_types(hf) or [] if other != kind]
    if odd:
        raise ConfigError(
            f"layer_types of this {hf.get('model_type')} are {kind}, as its class in transformers has them; "
            f"got {shown(odd[0])}"
        )


def read_layer_types(hf: Fields) -> list[str] | None:
    """`layer_types`, full or sliding attention for each layer; None where it is left out."""
    kinds, layers = hf.get("layer_types"), hf.integer("num_hidden_layers")
    if kinds is None:
        return None
    if not isinstance(kinds, list) or len(kinds) != layers:
        raise ConfigError(f"layer_types names each of the {layers} layers; got {shown(kinds)}")
    if odd := [kind for kind in kinds if kind not in (FULL, SLIDING)]:
        raise ConfigError(f"layer_types are full_ or sliding_attention; got {shown(odd[0])}")
    return kinds
