"""A model's configuration from the metadata of a GGUF file, in Hugging Face's words.

What the metadata leaves out is read off the tensors: the vocabulary is the height of token_embd.weight, a missing
output.weight means tied embeddings, and bias tensors mean biases.

Llama 3 scales its RoPE frequencies by a rule of four numbers. A GGUF file holds not the numbers but the resulting
divisor of each frequency (rope_freqs.weight), so the rule is rebuilt and must give those divisors.

Source: the writer of the llama.cpp project (convert_hf_to_gguf.py) and the key names of the gguf package.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from xplm.checkpoint.gguf_keys import check_keys, same_in_all_layers
from xplm.config import DecoderConfig
from xplm.errors import CheckpointError, ConfigError
from xplm.models.families.config_json import read_config
from xplm.rope_scaling import inverse_frequencies
from xplm.specs import RopeSpec

ARCHITECTURES = ("llama", "qwen2")
ROPE_FACTORS = "rope_freqs.weight"

# meta-llama/Llama-3.1: the same in every model that uses the rule; its factor is 8 or 32.
LLAMA3_LOW_FREQ_FACTOR = 1.0
LLAMA3_HIGH_FREQ_FACTOR = 4.0
DEFAULT_THETA = 10000.0
LLAMA3_ORIGINAL_CONTEXT = 8192  # tokens
LLAMA3_TOLERANCE = (
    1e-4  # of a divisor: float32 rounding, magnified where two wavelengths nearly cancel
)

# Keys below ARCH.rope.scaling that change the arithmetic, and the value that leaves it as it is.
NOT_SCALED_BY = {
    "attn_factor": 1.0,  # read for yarn
    "yarn_attn_factor": 1.0,
    "yarn_ext_factor": 1.0,
    "yarn_log_multiplier": 0.0,
    "alpha": 1.0,
}

Shapes = Mapping[str, tuple[int, ...]]

_REQUIRED: Any = object()  # the default of a key that has none


def config_from_gguf(
    metadata: Mapping[str, Any], shapes: Shapes, rope_factors: np.ndarray | None
) -> DecoderConfig:
    """Build the configuration.

    Args:
        metadata: the file's key-value pairs.
        shapes: the shape of each tensor, by GGUF name.
        rope_factors: (D/2,) what each RoPE frequency is divided by, or None where the file does not say.

    Returns:
        The configuration.

    Raises:
        ConfigError: a key is missing or ill-typed, or the model is not one that xplm has.
        CheckpointError: the file is one part of several.
    """
    if (kind := metadata.get("general.type", "model")) != "model":
        raise CheckpointError(
            f"a GGUF file must hold a model; this one holds something of the type {kind!r:.80}; "
            f"give the model's own file"
        )
    arch = metadata.get("general.architecture")
    if arch not in ARCHITECTURES:
        raise ConfigError(
            f"general.architecture must be one of {', '.join(ARCHITECTURES)}; got {arch!r}; "
            f"xplm has no other decoder yet"
        )
    if _get(metadata, "split.count", int, 1) > 1:
        raise CheckpointError(
            "a GGUF file must hold the whole model; this one is a part of several; "
            "join them with llama-gguf-split --merge"
        )
    metadata = same_in_all_layers(metadata, arch, metadata.get(f"{arch}.block_count"))

    def number(key: str, default: Any = _REQUIRED) -> float:
        return _positive(metadata, f"{arch}.{key}", default)

    def integer(key: str, default: Any = _REQUIRED) -> int:
        return int(_get(metadata, f"{arch}.{key}", int, default))

    n_heads = integer("attention.head_count")
    hidden_size = integer("embedding_length")
    head_dim = integer("attention.key_length", hidden_size // max(n_heads, 1))
    if (rotated := integer("rope.dimension_count", head_dim)) != head_dim:
        raise ConfigError(
            f"every dimension of a head must be rotated; this model rotates {rotated} of {head_dim}; "
            f"xplm has no partial rotation yet"
        )
    embedding = shapes.get("token_embd.weight")
    if embedding is None:
        raise CheckpointError("a GGUF model must hold token_embd.weight; it is missing")

    context, window = integer("context_length"), integer("attention.sliding_window", 0)
    eps, theta = number("attention.layer_norm_rms_epsilon"), number("rope.freq_base", DEFAULT_THETA)
    check_keys(
        metadata,
        arch,
        {
            "attention.layer_norm_epsilon": (eps, 0.0),
            "attention.scale": (1.0 / math.sqrt(max(head_dim, 1)), 0.0),
            "attention.sliding_window_pattern": (True,) if window else (True, False),
            "attention.value_length": (head_dim,),
            "embedding_length_out": (hidden_size, 0),
            **{f"attention.{part}_length_swa": (head_dim, 0) for part in ("key", "value")},
            "rope.dimension_count_swa": (head_dim, 0),
            "rope.freq_base_swa": (theta, 0.0),
        },
    )
    if arch == "qwen2" and 0 < window < context:
        raise ConfigError(
            f"a qwen2 must see its whole context of {context} tokens; "
            f"qwen2.attention.sliding_window is {window}; xplm does not know in which layers"
        )
    fields: dict[str, Any] = {
        "model_type": _model_type(arch, shapes, has_window=window > 0),
        "vocab_size": embedding[0],
        "hidden_size": hidden_size,
        "intermediate_size": integer("feed_forward_length"),
        "num_hidden_layers": integer("block_count"),
        "num_attention_heads": n_heads,
        "num_key_value_heads": integer("attention.head_count_kv", n_heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": context,
        "rms_norm_eps": eps,
        "rope_theta": theta,
        "rope_scaling": _rope_scaling(metadata, arch, rope_factors, head_dim),
        "tie_word_embeddings": "output.weight" not in shapes,
        "bos_token_id": _get(metadata, "tokenizer.ggml.bos_token_id", int, None),
        "eos_token_id": _stop_ids(metadata),
    }
    if fields["model_type"] == "llama":
        fields["attention_bias"] = "blk.0.attn_q.bias" in shapes
        fields["mlp_bias"] = "blk.0.ffn_up.bias" in shapes
    if arch == "llama" and window:
        fields["sliding_window"] = window
        if fields["model_type"] == "qwen2":
            fields |= {"use_sliding_window": True, "max_window_layers": 0}
    return read_config(fields)


def _model_type(arch: str, shapes: Shapes, *, has_window: bool) -> str:
    """The Hugging Face family. Of those with the arithmetic of a llama, Qwen2 has biases of q, k and v alone."""
    if arch == "llama" and "blk.0.attn_q.bias" in shapes and "blk.0.attn_output.bias" not in shapes:
        return "qwen2"
    return "mistral" if arch == "llama" and has_window else arch


def _get(metadata: Mapping[str, Any], key: str, kind: Any, default: Any = _REQUIRED) -> Any:
    value = metadata.get(key, default)
    if value is default and default is not _REQUIRED:
        return value
    if isinstance(value, bool) or not isinstance(value, kind):
        got = "nothing" if value is _REQUIRED else repr(value)[:40]
        raise ConfigError(
            f"GGUF key {key} must be a single number, or one for each layer that are all the same; got {got}"
        )
    return value


def _positive(metadata: Mapping[str, Any], key: str, default: Any = _REQUIRED) -> float:
    value = float(_get(metadata, key, (int, float), default))
    if not 0.0 < value < math.inf:
        raise ConfigError(f"GGUF key {key} must be a positive number; got {value}")
    return value


def _stop_ids(metadata: Mapping[str, Any]) -> list[int]:
    """The ids that end a text or a turn: Llama 3 ends a turn with an id of its own."""
    keys = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
    return list(dict.fromkeys(_get(metadata, key, int) for key in keys if key in metadata))


def _rope_scaling(
    metadata: Mapping[str, Any], arch: str, rope_factors: np.ndarray | None, head_dim: int
) -> dict[str, Any] | None:
    scaling = _named_scaling(metadata, arch)
    kind = scaling["rope_type"] if scaling else "none"
    for name, neutral in NOT_SCALED_BY.items():
        key = f"{arch}.rope.scaling.{name}"
        honoured = kind == "yarn" and name == "attn_factor"
        if not honoured and _get(metadata, key, (int, float), neutral) != neutral:
            raise ConfigError(
                f"GGUF key {key} must be {neutral:g} where RoPE scaling is {kind}; got {metadata[key]}; "
                f"xplm has no such scaling"
            )
    if rope_factors is None:
        return scaling
    if scaling:
        raise ConfigError(
            f"RoPE must be scaled once; this file has {ROPE_FACTORS} and {kind} scaling; convert the model again"
        )
    theta = _positive(metadata, f"{arch}.rope.freq_base", DEFAULT_THETA)
    return _llama3_scaling(rope_factors, theta, head_dim)


def _named_scaling(metadata: Mapping[str, Any], arch: str) -> dict[str, Any] | None:
    """The scaling that the file's keys name; llama.cpp takes a factor without a type for linear."""
    prefix = f"{arch}.rope.scaling"
    kind = metadata.get(f"{prefix}.type", "linear")
    if kind == "none":
        return None
    if kind not in ("linear", "yarn"):
        raise ConfigError(
            f"{prefix}.type must be none, linear or yarn; got {kind!r:.80}; "
            f"xplm has no other scaling for GGUF files"
        )
    old = f"{arch}.rope.scale_linear"  # the factor's first name
    key = old if old in metadata and f"{prefix}.factor" not in metadata else f"{prefix}.factor"
    factor = _positive(metadata, key, 1.0 if kind == "linear" else _REQUIRED)
    if kind == "linear" and factor == 1.0:
        return None

    scaling: dict[str, Any] = {"rope_type": kind, "factor": factor}
    original = f"{prefix}.original_context_length"
    if kind == "yarn" or original in metadata:
        context = metadata.get(f"{arch}.context_length")  # as for llama.cpp
        scaling["original_max_position_embeddings"] = _get(metadata, original, int, context)
    if kind == "linear":
        return scaling
    for beta in ("beta_fast", "beta_slow"):
        if f"{prefix}.yarn_{beta}" in metadata:
            scaling[beta] = _positive(metadata, f"{prefix}.yarn_{beta}")
    if f"{prefix}.attn_factor" in metadata:  # multiplies yarn's own, in llama.cpp
        own = 0.1 * math.log(factor) + 1.0
        scaling["attention_factor"] = own * _positive(metadata, f"{prefix}.attn_factor")
    return scaling


def _llama3_scaling(rope_factors: np.ndarray, theta: float, head_dim: int) -> dict[str, Any]:
    """The rule whose divisors these are. The slowest frequency is divided by the whole factor."""
    if rope_factors.ndim != 1 or 2 * rope_factors.size != head_dim:  # before as many are computed
        raise ConfigError(
            f"{ROPE_FACTORS} must follow Llama 3's rule for {head_dim / 2:g} frequencies; it has shape "
            f"{rope_factors.shape}; convert the model again"
        )
    factor = float(rope_factors.max(initial=1.0))
    rule = RopeSpec(
        rope_type="llama3",
        rope_theta=theta,
        factor=factor if math.isfinite(factor) else 1.0,
        original_max_position_embeddings=LLAMA3_ORIGINAL_CONTEXT,
        dim=head_dim,
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
