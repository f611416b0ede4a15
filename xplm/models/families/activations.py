"""The MLP of a config.json, and its activation as transformers spells it.   transformers: activations.py"""

from collections.abc import Mapping
from reprlib import repr as shown  # a value of any length, cut short

from xplm.errors import ConfigError
from xplm.models.families.fields import Fields
from xplm.specs import MLPSpec

SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "silu": ("silu", "swish"),
    "gelu": ("gelu_pytorch_tanh", "gelu_new", "gelu_fast", "gelu_accurate", "gelu_python_tanh"),
    "gelu_erf": ("gelu", "gelu_python"),
    "relu": ("relu",),
    "relu2": ("relu2",),
}
"""Of each activation that xplm has, the one to write first."""

ACTIVATIONS = {spelling: ours for ours, spellings in SPELLINGS.items() for spelling in spellings}
"""Our name, by spelling."""


def read_mlp(hf: Fields, *, is_gated: bool, bias: bool, width: int | None = None) -> MLPSpec:
    """An MLP of `intermediate_size` with the activation `hidden_act`.

    Args:
        hf: the config.json.
        is_gated: whether it has a gate.
        bias: whether its matrices have a bias.
        width: F where config.json leaves it out.
    """
    F = hf.integer("intermediate_size", width)
    return MLPSpec(F, read_activation(hf, is_gated), is_gated, bias)


def read_activation(hf: Fields, is_gated: bool) -> str:
    """Our name of the activation `hidden_act`.

    Raises:
        ConfigError: xplm has no such activation, or has it gated only.
    """
    usable = [name for name, ours in ACTIVATIONS.items() if is_gated or ours != "silu"]
    value = hf.get("hidden_act")
    if value not in usable:
        raise ConfigError(
            f"hidden_act of an MLP {'with' if is_gated else 'without'} a gate is one of "
            f"{', '.join(usable)}; got {shown(value)}"
        )
    return ACTIVATIONS[value]


def write_activation(activation: str, usual: str) -> str:
    """The activation as transformers spells it, `usual` if that is a spelling of it."""
    return usual if ACTIVATIONS[usual] == activation else SPELLINGS[activation][0]
