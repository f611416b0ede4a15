"""A model's configuration from the metadata of a GGUF file, and back.

A family's GGUFLayout has what it differs in (`xplm.models.families.gguf`); the keys that all architectures have are
here. What the metadata leaves out is read off the tensors: the vocabulary is the height of token_embd.weight, and a
missing output.weight means tied embeddings.

Source: the writer of the llama.cpp project (convert_hf_to_gguf.py) and the key names of the gguf package.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from xplm.checkpoint.gguf_keys import check_keys, is_equal, same_in_all_layers
from xplm.checkpoint.gguf_names import gguf_name, join_names
from xplm.checkpoint.gguf_rope import DEFAULT_THETA, read_scaling, write_factors, write_rope_keys
from xplm.config import DecoderConfig
from xplm.errors import CheckpointError, ConfigError
from xplm.models.decoder import EMBEDDING, LM_HEAD, param_specs
from xplm.models.families.config_json import read_config, write_config
from xplm.models.families.family import Family
from xplm.models.families.gguf import (
    LAYER_NORM_EPS,
    RMS_NORM_EPS,
    ROTATED,
    WINDOW,
    YARN_LOG,
    GGUFFile,
    GGUFLayout,
    read_value,
)
from xplm.models.families.table import FAMILIES

Shapes = Mapping[str, tuple[int, ...]]

SIZES = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
}
"""Keys that a file must have -> fields of config.json."""

_LAYOUTS = [(family, layout) for family in FAMILIES.values() for layout in family.gguf]

ARCHITECTURES = tuple(dict.fromkeys(layout.architecture for _, layout in _LAYOUTS))


class GGUFModel(NamedTuple):
    """A model in the words of a GGUF file, without its tokenizer."""

    layout: GGUFLayout
    metadata: dict[str, Any]  # general.architecture, and the keys below its name
    tensors: dict[str, tuple[str, ...]]  # GGUF name -> ours, of what is joined in it, or cut
    rope_factors: dict[str, np.ndarray]  # (dim/2,) float32 each, the tensors of FACTOR_TENSORS


def config_from_gguf(
    metadata: Mapping[str, Any], shapes: Shapes, rope_factors: Mapping[str, np.ndarray]
) -> DecoderConfig:
    """Build the configuration.

    Args:
        metadata: the file's key-value pairs.
        shapes: the shape of each tensor, by GGUF name.
        rope_factors: (dim/2,) what each RoPE frequency is divided by, of those of FACTOR_TENSORS that the file has.

    Returns:
        The configuration.

    Raises:
        ConfigError: a key is missing or ill-typed, or the model is not one that xplm has.
        CheckpointError: the file is one part of several.
    """
    file = _open(metadata, shapes)
    family, layout = _claim(file)
    n_heads, head_dim = file.integer("attention.head_count"), file.head_dim
    rotated = file.integer(ROTATED, head_dim)
    if ROTATED not in layout.keys and rotated != head_dim:
        raise ConfigError(
            f"every dimension of a head must be rotated in a {family.model_type}; this model rotates "
            f"{rotated} of {head_dim}"
        )
    embedding = shapes.get("token_embd.weight")
    if embedding is None:
        raise CheckpointError("a GGUF model must hold token_embd.weight; it is missing")

    eps, theta = file.number(layout.norm_eps_key), file.number("rope.freq_base", DEFAULT_THETA)
    _check_keys(file, layout, eps, theta)
    fields: dict[str, Any] = {
        "model_type": family.model_type,
        "vocab_size": embedding[0],
        **{field: file.integer(key) for key, field in SIZES.items()},
        "num_key_value_heads": file.integer("attention.head_count_kv", n_heads),
        "head_dim": head_dim,
        "hidden_act": family.hidden_act,
        family.norm_eps_key: eps,
        "rope_theta": theta,
        "rope_scaling": read_scaling(
            file, rope_factors, rotated, has_log_multiplier=YARN_LOG in layout.keys
        ),
        "tie_word_embeddings": "output.weight" not in shapes,
        "bos_token_id": read_value(metadata, "tokenizer.ggml.bos_token_id", int, None),
        "eos_token_id": _stop_ids(metadata),
    }
    spelt = {family.spelling.get(key, key): value for key, value in fields.items()}
    return read_config({k: v for k, v in spelt.items() if k in family.keys} | layout.read(file))


def gguf_metadata(config: DecoderConfig, architecture: str | None = None) -> GGUFModel:
    """The opposite: a model's keys and the names of its tensors, as llama.cpp's converter writes them.

    Sizes that llama.cpp would take a default for, and its converter leaves out, are written too.

    Args:
        config: the model's. Its token ids are its tokenizer's to write.
        architecture: one of those that its family is read from; None for the first.

    Returns:
        What `config_from_gguf` reads the same arithmetic from.

    Raises:
        ConfigError: GGUF files of the architecture have no place for a part of the model.
    """
    layout = get_layout(config.model_type, architecture).of(config.blocks[0])
    if not (layout.has_head or config.tie_word_embeddings):
        raise ConfigError(
            f"the head of a {config.model_type} must be its embedding in a GGUF file of the architecture "
            f"{layout.architecture}; this model has another; keep it as a Hugging Face directory"
        )
    mixer, rope = config.blocks[0].mixer, layout.rope(config)
    hf, spelling = write_config(config), FAMILIES[config.model_type].spelling
    keys = {
        **{key: hf[spelling.get(field, field)] for key, field in SIZES.items()},
        "vocab_size": config.vocab_size,
        "attention.head_count_kv": mixer.num_key_value_heads,
        "attention.key_length": mixer.head_dim,
        "attention.value_length": mixer.value_dim,
        layout.norm_eps_key: config.norm.eps,
        **(write_rope_keys(rope) if rope else {}),
        **layout.write(config),
    }
    metadata: dict[str, Any] = {"general.architecture": layout.architecture}
    metadata |= {f"{layout.architecture}.{k}": v for k, v in keys.items() if v is not None}

    specs = param_specs(config)
    tensors = join_names(specs, layout)
    if layout.has_own_head and config.tie_word_embeddings:
        tensors[gguf_name(LM_HEAD, layout)] = (EMBEDDING,)
        config = replace(config, tie_word_embeddings=False)
    factors = write_factors(rope) if rope else {}
    shapes = {
        stored: (sum(specs[name].shape[0] for name in names), *specs[names[0]].shape[1:])
        for stored, names in tensors.items()
    }
    _check_written(config, layout, config_from_gguf(metadata, shapes, factors))
    return GGUFModel(layout, metadata, tensors, factors)


def get_layout(model_type: str, architecture: str | None = None) -> GGUFLayout:
    """A family's layout of one architecture; of the one to write first, where it is None.

    Raises:
        ConfigError: the family is not read from such files.
    """
    for layout in FAMILIES[model_type].gguf:
        if architecture in (None, layout.architecture):
            return layout
    raise ConfigError(
        f"a GGUF file of a {model_type} must be of an architecture that xplm reads it from, one of "
        f"{', '.join(layout.architecture for layout in FAMILIES[model_type].gguf) or 'none'}; "
        f"got {architecture}"
    )


def _open(metadata: Mapping[str, Any], shapes: Shapes) -> GGUFFile:
    """The file's keys and tensors, if it is a whole model of an architecture that xplm has."""
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
    if read_value(metadata, "split.count", int, 1) > 1:
        raise CheckpointError(
            "a GGUF file must hold the whole model; this one is a part of several; "
            "join them with llama-gguf-split --merge"
        )
    layers = metadata.get(f"{arch}.block_count")
    return GGUFFile(arch, same_in_all_layers(metadata, arch, layers), shapes)


def _claim(file: GGUFFile) -> tuple[Family, GGUFLayout]:
    """The family of the file's architecture that claims it, or else the one that takes the rest."""
    named = [pair for pair in _LAYOUTS if pair[1].architecture == file.architecture]
    claims = [pair for pair in named if pair[1].claims and pair[1].claims(file)]
    return (claims or [pair for pair in named if pair[1].claims is None])[0]


def _check_keys(file: GGUFFile, layout: GGUFLayout, eps: float, theta: float) -> None:
    """Refuse the keys that the layout does not read and that are not neutral."""
    context, window = file.integer("context_length"), file.integer(WINDOW, 0)
    if WINDOW not in layout.keys and 0 < window < context:
        raise ConfigError(
            f"a {file.architecture} must see its whole context of {context} tokens; "
            f"{file.architecture}.{WINDOW} is {window}; xplm does not know in which layers"
        )
    D, width = file.head_dim, file.integer("embedding_length")
    own = {f"{file.architecture}.{key}" for key in layout.keys}
    check_keys(
        {key: value for key, value in file.metadata.items() if key not in own},
        file.architecture,
        {
            RMS_NORM_EPS: (eps, 0.0),
            LAYER_NORM_EPS: (eps, 0.0),
            "attention.scale": (1.0 / math.sqrt(max(D, 1)), 0.0),
            "attention.sliding_window_pattern": (True,) if window else (True, False),
            "attention.value_length": (D,),
            "embedding_length_out": (width, 0),
            **{f"attention.{part}_length_swa": (D, 0) for part in ("key", "value")},
            "rope.dimension_count_swa": (D, 0),
            "rope.freq_base_swa": (theta, 0.0),
        },
    )


def _check_written(config: DecoderConfig, layout: GGUFLayout, back: DecoderConfig) -> None:
    """Refuse a model that is read back as another; its ids and its family's name are not arithmetic."""
    same = {
        name: getattr(config, name)
        for name in (
            *("model_type", "initializer_range", "context"),
            *("bos_token_id", "eos_token_id", "pad_token_id"),
        )
    }
    wanted, got = (_flat(write_config(c)) for c in (config, replace(back, **same)))
    lost = [key for key in wanted | got if not is_equal(wanted.get(key), got.get(key))]
    if lost:
        raise ConfigError(
            f"a model must have its place in a GGUF file; those of the architecture {layout.architecture} "
            f"have none for {', '.join(f'{key} = {wanted.get(key)}' for key in lost)} of this "
            f"{config.model_type}; keep it as a Hugging Face directory"
        )


def _flat(hf: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json with its RoPE parameters beside the rest."""
    rope = ("rope_parameters", "rope_scaling", "rope_theta")
    return {k: v for k, v in hf.items() if k not in rope} | hf.get("rope_parameters", {})


def _stop_ids(metadata: Mapping[str, Any]) -> list[int]:
    """The ids that end a text or a turn: Llama 3 ends a turn with an id of its own."""
    keys = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
    return list(dict.fromkeys(read_value(metadata, key, int) for key in keys if key in metadata))
