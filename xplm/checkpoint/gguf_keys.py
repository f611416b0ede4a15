"""GGUF keys that could change a model's answers: one that is not honoured must be neutral.

Every key below the architecture's name that the gguf package knows, and that is not READ, must leave the arithmetic as
it is: be zero, false or empty, or have a value of NEUTRAL. A key that the package does not know either is named in a
warning.

Source: the key names of the gguf package; their defaults in llama.cpp (src/llama-model.cpp).
"""

import logging
import math
from collections.abc import Iterator, Mapping
from reprlib import repr as shown  # a value of any length, cut short
from typing import Any

from gguf import Keys

from xplm.errors import ConfigError, one_line

READ = frozenset(
    {
        "context_length",
        "embedding_length",
        "block_count",
        "feed_forward_length",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.sliding_window",
        "rope.dimension_count",
        "rope.freq_base",
        "rope.scale_linear",
        "rope.scaling.type",
        "rope.scaling.factor",
        "rope.scaling.original_context_length",
        "rope.scaling.attn_factor",
        "rope.scaling.yarn_attn_factor",
        "rope.scaling.yarn_ext_factor",
        "rope.scaling.yarn_beta_fast",
        "rope.scaling.yarn_beta_slow",
        "rope.scaling.yarn_log_multiplier",
        "rope.scaling.alpha",
    }
)
"""Keys that the configuration of every architecture is made of."""

DESCRIPTIVE = frozenset({"vocab_size", "rope.scaling.finetuned"})
"""Keys that no arithmetic depends on: the vocabulary is the height of the embedding."""

ZERO = (0, "")  # False equals 0

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.output_scale": (1.0, 0.0),
    "embedding_scale": (1.0, 0.0),
    "expert_group_scale": (1.0, 0.0),
    "expert_weights_scale": (1.0, 0.0),
    "interleave_moe_layer_step": (0, 1),
    "logit_scale": (1.0, 0.0),
    "residual_scale": (1.0, 0.0),
    "tensor_data_layout": ("Meta AI original pth", "reference"),
}
"""Values that leave the arithmetic as it is, the plainest first; 0 for a scale is none."""

FLOAT32_ROUNDING = 2.0**-23  # of a number that was computed, then stored
MAX_LISTED = 5  # keys in a message

_log = logging.getLogger(__name__)


def check_keys(
    metadata: Mapping[str, Any], arch: str, neutral: Mapping[str, tuple[Any, ...]]
) -> None:
    """Refuse the keys that are not honoured and not neutral; warn of those that are not known.

    Args:
        metadata: the file's key-value pairs.
        arch: the architecture, whose name the keys begin with.
        neutral: beside NEUTRAL, the values that are neutral in this model.

    Raises:
        ConfigError: a key would change the model's answers; all of them are named.
    """
    names = {name.removeprefix("{arch}.") for name in _names(Keys) if name.startswith("{arch}.")}
    neutral = {**dict.fromkeys(names, ZERO), **NEUTRAL, **neutral}
    refused, unknown = [], []
    for key, value in metadata.items():
        name = key.removeprefix(f"{arch}.")
        if name == key or name in READ or name in DESCRIPTIVE:
            continue
        if name not in neutral:
            unknown.append(key)
        elif not _is_neutral(value, neutral[name]):
            refused.append(f"{key} = {shown(value)} (neutral: {neutral[name][0]})")
    if refused:
        raise ConfigError(
            f"GGUF keys that xplm does not honour must be neutral; got {_listed(refused)}; "
            f"use a model without them"
        )
    if unknown:
        _log.warning(
            "this GGUF file has keys that are not known, and not honoured: %s",
            one_line(_listed(unknown)),
        )


def same_in_all_layers(metadata: Mapping[str, Any], arch: str, layers: Any) -> dict[str, Any]:
    """The metadata with one value for each list of the architecture that repeats it for every layer."""
    prefix = f"{arch}."
    return {
        key: value[0] if key.startswith(prefix) and _repeats(value, layers) else value
        for key, value in metadata.items()
    }


def _repeats(value: Any, times: Any) -> bool:
    is_list = isinstance(value, list) and 0 < len(value) == times
    return is_list and all(item == value[0] for item in value)


def _names(keys: type) -> Iterator[str]:
    """The key names in a class of the gguf package and the classes in it."""
    for value in vars(keys).values():
        if isinstance(value, str):
            yield value
        elif isinstance(value, type):
            yield from _names(value)


def _is_neutral(value: Any, neutral: tuple[Any, ...]) -> bool:
    """Whether a value, or each item of a list, is one of the neutral ones, up to float32's rounding."""
    items = value if isinstance(value, list) else [value]
    return all(any(is_equal(item, allowed) for allowed in neutral) for item in items)


def is_equal(value: Any, other: Any) -> bool:
    """Whether two values are the same, or two lists item by item, up to float32's rounding."""
    if isinstance(value, list | tuple) and isinstance(other, list | tuple):
        return len(value) == len(other) and all(map(is_equal, value, other))
    if isinstance(value, float) and isinstance(other, float):
        return math.isclose(value, other, rel_tol=FLOAT32_ROUNDING)
    return bool(value == other)


def _listed(items: list[str]) -> str:
    text = ", ".join(items[:MAX_LISTED])
    return text if len(items) <= MAX_LISTED else f"{text} and {len(items) - MAX_LISTED} more"
