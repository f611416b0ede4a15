"""Inverse frequencies of rotary embeddings, and the ways of stretching them to longer contexts.

Plain RoPE turns pair i of a head of width D by p * inv_freq[i] at position p:

    inv_freq[i] = theta^(-2i / D)             its wavelength is 2 pi / inv_freq[i] positions

    linear    positions are divided by `factor`: Chen et al., "Extending Context Window ... via Position
              Interpolation", arXiv:2306.15595.
    dynamic   past the trained length, theta grows with the sequence, so that the slowest pair still turns as it did
              in training ("dynamic NTK"): Peng et al., "YaRN", arXiv:2309.00071, appendix B.1.
    yarn      fast pairs stay, slow pairs are interpolated, a ramp between; scores get a temperature: the same paper,
              section 3.
    llama3    the same idea with the ramp in wavelengths: Grattafiori et al., "The Llama 3 Herd of Models",
              arXiv:2407.21783, section 3.2, and the code released with Llama 3.1.
    longrope  each pair is slowed by a factor of its own, found by search: one list of factors for sequences up to the
              trained length, another beyond it: Ding et al., "LongRoPE", arXiv:2402.13753; scores get a temperature.

The frequencies of "dynamic" and "longrope" depend on the sequence's length. A pass rotates what it reads by those of
the length that it reaches (`ends` of `xplm.models.decoder.forward`: all chunks of a prompt by those of the whole
prompt); keys that a cache holds stay as they were rotated.

    longrope  A reply or a chat that grows past the trained length is computed once more from its first token, with the
              long factors: its logits are those of the same tokens in one pass. transformers' `generate` does so for
              phi3; for other families it keeps the keys with short factors.
    dynamic   Theta grows with each token, so keys keep the theta that they were rotated with, as transformers' do: a
              reply that grows past the trained length has other logits than the same tokens in one pass. The next
              reply of a chat reads all of its prompt anew, by the theta of that length.

Numerics. Computed once a forward pass, on the host, in float64; `xplm.kernels.rope` rounds them to its island dtype.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from xplm.specs import RopeSpec

SHORTEST_TRAINED = 2048  # positions: Llama's first models; none was trained on fewer


def inverse_frequencies(rope: RopeSpec, *, length: int) -> tuple[np.ndarray, float]:
    """Frequencies for a sequence of `length` positions.

    Args:
        rope: type and parameters.
        length: positions in use, the ones in this forward pass included; read by the LENGTH_DEPENDENT types alone.

    Returns:
        inv_freq (dim/2,) float64 in radians a position, and the scale of cos and sin.
    """
    exponents = np.arange(0, rope.dim, 2, dtype=np.float64) / rope.dim
    if rope.rope_type == "dynamic":
        return _dynamic_theta(rope, length) ** -exponents, 1.0
    if rope.rope_type == "longrope":
        slowed = rope.long_factor if has_long_factors(rope, length) else rope.short_factor
        inv_freq = rope.rope_theta**-exponents / np.asarray(slowed, np.float64)
        return inv_freq, _longrope_attention_factor(rope)
    return SCALINGS[rope.rope_type](rope, rope.rope_theta**-exponents)


def depend_on_length(ropes: Iterable[RopeSpec]) -> bool:
    """Whether the frequencies of any depend on how long a sequence is."""
    return any(rope.rope_type in LENGTH_DEPENDENT for rope in ropes)


def table_name(ropes: Iterable[RopeSpec], length: int) -> str:
    """A name for the frequencies of a sequence of `length` positions; "" where these do not depend on it."""
    names = []
    for rope in ropes:
        if rope.rope_type in LENGTH_DEPENDENT:
            inv_freq, _ = inverse_frequencies(rope, length=length)
            names.append(inv_freq.tobytes().hex())
    return " ".join(names)


def has_long_factors(rope: RopeSpec, length: int) -> bool:
    """Whether longrope's long factors are those of a sequence of `length` positions."""
    return rope.rope_type == "longrope" and length > _trained_length(rope)


def stretched_context(rope: RopeSpec) -> int:
    """The positions that a model was stretched to.

    A linear or dynamic type that names no trained length has it in max_position_embeddings, or has the stretched one
    there: both are usual. The arithmetic of "dynamic" takes max_position_embeddings for the trained length. That of
    "linear" takes neither, so it is the stretched length if a factor of it is at least SHORTEST_TRAINED.
    """
    trained, configured = rope.original_max_position_embeddings, rope.max_position_embeddings
    if rope.rope_type not in ("linear", "dynamic", "yarn", "longrope"):
        return configured
    if trained is not None:
        return max(configured, int(trained * rope.factor))
    if rope.rope_type == "linear" and configured >= SHORTEST_TRAINED * rope.factor:
        return configured
    return int(configured * max(rope.factor, 1.0))


def unread_rope_keys(hf: Mapping[str, Any]) -> list[str]:
    """Keys of a config.json's RoPE parameters that their type does not read, such as "rope_scaling.finetuned"."""
    name = "rope_scaling" if hf.get("rope_scaling") else "rope_parameters"
    given = hf.get(name)
    if not isinstance(given, Mapping):
        return []
    nested = {key: value for key, value in given.items() if isinstance(value, Mapping)}
    unread = [f"{name}.{kind}.{key}" for kind in nested for key in _unread(nested[kind])]
    flat = {key: value for key, value in given.items() if key not in nested}
    return unread + [f"{name}.{key}" for key in _unread(flat)]


def _unread(given: Mapping[str, Any]) -> list[str]:
    """Keys of one object of parameters that its type does not read."""
    rope_type = given.get("rope_type", given.get("type", "default"))
    read = READ_ALWAYS + READ_BY.get(rope_type if isinstance(rope_type, str) else "", ())
    unread = [key for key, value in given.items() if key not in read and value is not None]
    if given.get("type", rope_type) != rope_type:
        unread.append("type")
    return unread


def _default(_: RopeSpec, inv_freq: np.ndarray) -> tuple[np.ndarray, float]:
    return inv_freq, 1.0


def _linear(rope: RopeSpec, inv_freq: np.ndarray) -> tuple[np.ndarray, float]:
    return inv_freq / rope.factor, 1.0


def _dynamic_theta(rope: RopeSpec, length: int) -> float:
    trained = rope.max_position_embeddings
    stretch = rope.factor * max(length, trained) / trained - (rope.factor - 1.0)
    return rope.rope_theta * stretch ** (rope.dim / (rope.dim - 2))


def _llama3(rope: RopeSpec, inv_freq: np.ndarray) -> tuple[np.ndarray, float]:
    trained = _trained_length(rope)
    turns = trained * inv_freq / (2.0 * math.pi)  # of each pair over the trained length
    low, high = rope.low_freq_factor, rope.high_freq_factor

    keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1.0 - keep) * inv_freq / rope.factor + keep * inv_freq, 1.0


def _yarn(rope: RopeSpec, inv_freq: np.ndarray) -> tuple[np.ndarray, float]:
    trained = _trained_length(rope)
    half = len(inv_freq)

    def pair_with(turns: float) -> float:
        """The (fractional) pair that makes so many turns over the trained length."""
        return half * math.log(trained / (turns * 2.0 * math.pi)) / math.log(rope.rope_theta)

    low, high = pair_with(rope.beta_fast), pair_with(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * half - 1)
    span = high - low if high != low else 0.001

    interpolate = np.clip((np.arange(half) - low) / span, 0.0, 1.0)
    mixed = inv_freq / rope.factor * interpolate + inv_freq * (1.0 - interpolate)
    return mixed, _yarn_attention_factor(rope)


def _yarn_attention_factor(rope: RopeSpec) -> float:
    def temperature(weight: float) -> float:
        return 1.0 if rope.factor <= 1.0 else 0.1 * weight * math.log(rope.factor) + 1.0

    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.mscale and rope.mscale_all_dim:
        return temperature(rope.mscale) / temperature(rope.mscale_all_dim)
    return temperature(1.0)


def _longrope_attention_factor(rope: RopeSpec) -> float:
    if rope.attention_factor is not None:
        return rope.attention_factor
    if rope.factor <= 1.0:
        return 1.0
    return math.sqrt(1.0 + math.log(rope.factor) / math.log(_trained_length(rope)))


def _trained_length(rope: RopeSpec) -> int:
    assert rope.original_max_position_embeddings is not None  # the configuration was validated
    return rope.original_max_position_embeddings


SCALINGS: dict[str, Callable[[RopeSpec, np.ndarray], tuple[np.ndarray, float]]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}

LENGTH_DEPENDENT = ("dynamic", "longrope")
"""Types whose frequencies are others in a longer sequence."""

ROPE_TYPES = (*SCALINGS, *LENGTH_DEPENDENT)

READ_ALWAYS = ("rope_type", "type", "rope_theta", "partial_rotary_factor")
READ_BY = {
    "linear": ("factor", "original_max_position_embeddings"),
    "dynamic": ("factor", "original_max_position_embeddings"),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
    "yarn": (
        "factor",
        "original_max_position_embeddings",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "truncate",
    ),
    "longrope": (
        "factor",
        "original_max_position_embeddings",
        "attention_factor",
        "short_factor",
        "long_factor",
    ),
}
"""Keys of rope_parameters that each type reads."""
