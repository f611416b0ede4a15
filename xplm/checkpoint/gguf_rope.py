"""Scaled RoPE of a GGUF file, read and written.

    ARCH.rope.scaling.*    linear, yarn
    rope_freqs.weight      what each frequency is divided by
    rope_factors_*.weight  the same for longrope: one tensor for short sequences, one for long ones

Llama 3 scales its frequencies by a rule of four numbers. A GGUF file holds not the numbers but the resulting divisor of
each frequency, so the rule is rebuilt and must give those divisors.

Source: the writer of the llama.cpp project (convert_hf_to_gguf.py) and the key names of the gguf package.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from xplm.checkpoint.gguf_keys import FLOAT32_ROUNDING
from xplm.errors import ConfigError
from xplm.models.families.gguf import REQUIRED, ROTATED, YARN_LOG, GGUFFile, read_value
from xplm.rope_scaling import inverse_frequencies
from xplm.specs import RopeSpec

ROPE_FACTORS = "rope_freqs.weight"
SHORT_FACTORS, LONG_FACTORS = "rope_factors_short.weight", "rope_factors_long.weight"
FACTOR_TENSORS = (ROPE_FACTORS, SHORT_FACTORS, LONG_FACTORS)
DEFAULT_THETA = 10000.0
LOG_WEIGHT = 0.1  # of log(factor) in yarn's temperature

# meta-llama/Llama-3.1: the same in every model that uses the rule, whose factor is 8 or 32.
LLAMA3_ORIGINAL_CONTEXT = 8192  # tokens
LLAMA3_TOLERANCE = (
    1e-4  # of a divisor: float32 rounding, magnified where two wavelengths nearly cancel
)

# Keys below ARCH.rope.scaling that change the arithmetic, and the value that leaves it as it is.
NOT_SCALED_BY = {
    "attn_factor": 1.0,  # read for yarn and longrope
    "yarn_attn_factor": 1.0,
    "yarn_ext_factor": 1.0,
    "yarn_log_multiplier": 0.0,
    "alpha": 1.0,
}


def read_scaling(
    file: GGUFFile,
    rope_factors: Mapping[str, np.ndarray],
    dim: int,
    *,
    has_log_multiplier: bool = False,
) -> dict[str, Any] | None:
    """The `rope_scaling` of a config.json.

    Args:
        file: the file.
        rope_factors: (dim/2,) what each frequency is divided by, of those of FACTOR_TENSORS that the file has.
        dim: features of a head that are rotated.
        has_log_multiplier: whether the temperature of yarn is DeepSeek's, which the file must give.

    Raises:
        ConfigError: the file asks for a scaling that xplm does not have.
    """
    if SHORT_FACTORS in rope_factors or LONG_FACTORS in rope_factors:
        scaling: dict[str, Any] | None = _longrope_scaling(file, rope_factors)
    else:
        scaling = _named_scaling(file)
    kind = scaling["rope_type"] if scaling else "none"
    if scaling and kind == "yarn" and has_log_multiplier:
        weight = file.number(YARN_LOG) / LOG_WEIGHT
        scaling |= {"mscale": weight, "mscale_all_dim": weight}
    temperature = "yarn_log_multiplier" if has_log_multiplier else "attn_factor"
    for name, neutral in NOT_SCALED_BY.items():
        key = f"{file.architecture}.rope.scaling.{name}"
        honoured = kind in ("yarn", "longrope") and name == temperature
        if not honoured and read_value(file.metadata, key, (int, float), neutral) != neutral:
            raise ConfigError(
                f"GGUF key {key} must be {neutral:g} where RoPE scaling is {kind}; got {file.metadata[key]}; "
                f"xplm has no such scaling"
            )
    if ROPE_FACTORS not in rope_factors:
        return scaling
    if scaling:
        raise ConfigError(
            f"RoPE must be scaled once; this file has {ROPE_FACTORS} and {kind} scaling; convert the model again"
        )
    return _llama3_scaling(
        rope_factors[ROPE_FACTORS], file.number("rope.freq_base", DEFAULT_THETA), dim
    )


def write_rope_keys(rope: RopeSpec) -> dict[str, Any]:
    """All keys of rotary positions."""
    return {"rope.freq_base": rope.rope_theta, ROTATED: rope.dim, **_write_scaling(rope)}


def _write_scaling(rope: RopeSpec) -> dict[str, Any]:
    """The keys of a linear, yarn or longrope scaling; none of another, which has no keys.

    llama.cpp divides all frequencies by a factor, which longrope has in its tensors.
    """
    if rope.rope_type == "longrope":
        _, scale = inverse_frequencies(rope, length=1)
        trained = rope.original_max_position_embeddings
        return {
            "rope.scaling.original_context_length": trained,
            "rope.scaling.attn_factor": scale,
        }
    if rope.rope_type not in ("linear", "yarn"):
        return {}
    keys: dict[str, Any] = {"type": rope.rope_type, "factor": rope.factor}
    if rope.original_max_position_embeddings is not None:
        keys["original_context_length"] = rope.original_max_position_embeddings
    if rope.rope_type == "yarn":
        keys |= {"yarn_beta_fast": rope.beta_fast, "yarn_beta_slow": rope.beta_slow}
    if rope.mscale_all_dim:
        keys["yarn_log_multiplier"] = LOG_WEIGHT * rope.mscale_all_dim
    if rope.attention_factor is not None:
        keys["attn_factor"] = rope.attention_factor / _yarn_attention_factor(rope.factor)
    return {f"rope.scaling.{key}": value for key, value in keys.items()}


def write_factors(rope: RopeSpec) -> dict[str, np.ndarray]:
    """(dim/2,) float32, the divisors of a llama3 or longrope scaling; none for another."""
    if rope.rope_type == "longrope":
        short, long = (np.array(f, np.float32) for f in (rope.short_factor, rope.long_factor))
        return {SHORT_FACTORS: short, LONG_FACTORS: long}
    if rope.rope_type != "llama3":
        return {}
    plain, scaled = (
        inverse_frequencies(r, length=1)[0] for r in (replace(rope, rope_type="default"), rope)
    )
    return {ROPE_FACTORS: (plain / scaled).astype(np.float32)}


def _named_scaling(file: GGUFFile) -> dict[str, Any] | None:
    """The scaling that the file's keys name; llama.cpp takes a factor without a type for linear."""
    metadata, prefix = file.metadata, f"{file.architecture}.rope.scaling"
    kind = metadata.get(f"{prefix}.type", "linear")
    if kind == "none":
        return None
    if kind not in ("linear", "yarn"):
        raise ConfigError(
            f"{prefix}.type must be none, linear or yarn; got {kind!r:.80}; "
            f"xplm has no other scaling for GGUF files"
        )
    old = "rope.scale_linear"  # the factor's first name
    is_old = f"{file.architecture}.{old}" in metadata and f"{prefix}.factor" not in metadata
    key = old if is_old else "rope.scaling.factor"
    factor = file.number(key, 1.0 if kind == "linear" else REQUIRED)
    if kind == "linear" and factor == 1.0:
        return None

    scaling: dict[str, Any] = {"rope_type": kind, "factor": factor}
    original = f"{prefix}.original_context_length"
    if kind == "yarn" or original in metadata:
        context = metadata.get(f"{file.architecture}.context_length")  # as for llama.cpp
        scaling["original_max_position_embeddings"] = read_value(metadata, original, int, context)
    if kind == "linear":
        return scaling
    for beta in ("beta_fast", "beta_slow"):
        if f"{prefix}.yarn_{beta}" in metadata:
            scaling[beta] = file.number(f"rope.scaling.yarn_{beta}")
    if f"{prefix}.attn_factor" in metadata:  # multiplies yarn's own, in llama.cpp
        attention_factor = file.number("rope.scaling.attn_factor")
        scaling["attention_factor"] = _yarn_attention_factor(factor) * attention_factor
    return scaling


def _longrope_scaling(file: GGUFFile, factors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Longrope, its temperature given as a number where it is not the paper's."""
    prefix = f"{file.architecture}.rope.scaling"
    kind = file.metadata.get(f"{prefix}.type", "longrope")
    factor = file.number("rope.scaling.factor", file.number("rope.scale_linear", 1.0))
    is_whole = {SHORT_FACTORS, LONG_FACTORS} <= factors.keys()
    if not is_whole or kind not in ("longrope", "none") or factor != 1.0:
        raise ConfigError(
            f"longrope must have {SHORT_FACTORS} and {LONG_FACTORS}, and no other scaling; got "
            f"{', '.join(factors)}, {prefix}.type {kind!r:.80} and a factor of {factor:g}; "
            f"convert the model again"
        )
    context = file.integer("context_length")
    trained = file.integer("rope.scaling.original_context_length", context)
    scaling: dict[str, Any] = {
        "rope_type": "longrope",
        "short_factor": factors[SHORT_FACTORS].tolist(),
        "long_factor": factors[LONG_FACTORS].tolist(),
        "original_max_position_embeddings": trained,
    }
    usual = 1.0
    if context > trained > 1:
        usual = math.sqrt(1.0 + math.log(context / trained) / math.log(trained))
    given = file.number("rope.scaling.attn_factor", 1.0)
    if not math.isclose(given, usual, rel_tol=FLOAT32_ROUNDING):
        scaling["attention_factor"] = given
    return scaling


def _yarn_attention_factor(factor: float) -> float:
    """That of llama.cpp."""
    return LOG_WEIGHT * math.log(factor) + 1.0


def _llama3_scaling(rope_factors: np.ndarray, theta: float, dim: int) -> dict[str, Any]:
    """The rule whose divisors these are. The slowest frequency is divided by the whole factor."""
    if rope_factors.ndim != 1 or 2 * rope_factors.size != dim:  # before as many are computed
        raise ConfigError(
            f"{ROPE_FACTORS} must follow Llama 3's rule for {dim / 2:g} frequencies; it has shape "
            f"{rope_factors.shape}; convert the model again"
        )
    factor = float(rope_factors.max(initial=1.0))
    rule = RopeSpec(
        rope_type="llama3",
        rope_theta=theta,
        factor=factor if math.isfinite(factor) else 1.0,
        original_max_position_embeddings=LLAMA3_ORIGINAL_CONTEXT,
        dim=dim,
        max_position_embeddings=LLAMA3_ORIGINAL_CONTEXT,
    )
    plain = replace(rule, rope_type="default")
    frequencies, scaled = (inverse_frequencies(rope, length=1)[0] for rope in (plain, rule))
    if not np.allclose(rope_factors, frequencies / scaled, rtol=LLAMA3_TOLERANCE, atol=0.0):
        raise ConfigError(
            f"{ROPE_FACTORS} must follow Llama 3's rule for a context of {LLAMA3_ORIGINAL_CONTEXT} "
            f"tokens; its {rope_factors.size} divisors (largest {factor:g}) do not; "
            f"xplm has no other rule for them"
        )
    return {
        "rope_type": rule.rope_type,
        "factor": rule.factor,
        "low_freq_factor": rule.low_freq_factor,
        "high_freq_factor": rule.high_freq_factor,
        "original_max_position_embeddings": rule.original_max_position_embeddings,
    }
