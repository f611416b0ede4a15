"""Families whose files name or arrange parameters otherwise than Llama's do.

    starcoder2   other names for the two matrices of the MLP
    gpt2         other names for everything; q, k and v in one tensor, one after the other; and every matrix of a block
                 stored as (inputs, outputs), which its code calls Conv1D

A parameter lies in one stored tensor; a stored tensor holds one parameter, or several joined along their outputs. The
table says which, and reading and writing both follow it.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from xplm.checkpoint.checkpoint import Checkpoint, TensorInfo
from xplm.config import DecoderConfig
from xplm.models.decoder import param_specs

Read = Callable[[str, np.dtype[Any]], np.ndarray]
"""(name, dtype) -> the tensor."""

MODULES = {
    "starcoder2": {
        "mlp.up_proj": "mlp.c_fc",
        "mlp.down_proj": "mlp.c_proj",
    },
    "gpt2": {
        "model.embed_tokens": "transformer.wte",
        "model.embed_positions": "transformer.wpe",
        "model.norm": "transformer.ln_f",
        "model.layers": "transformer.h",
        "input_layernorm": "ln_1",
        "self_attn.q_proj": "attn.c_attn",
        "self_attn.k_proj": "attn.c_attn",
        "self_attn.v_proj": "attn.c_attn",
        "self_attn.o_proj": "attn.c_proj",
        "post_attention_layernorm": "ln_2",
        "mlp.up_proj": "mlp.c_fc",
        "mlp.down_proj": "mlp.c_proj",
    },
}
"""Our name of a module -> the family's, where they differ."""

TRANSPOSED = ("gpt2",)
GPT2_PREFIX = "transformer."  # files of the bare model leave it out


class Stored(NamedTuple):
    """A tensor of a file, and what is in it."""

    name: str
    parameters: tuple[str, ...]  # ours, in their order along the outputs
    is_transposed: bool


def stored_tensors(config: DecoderConfig) -> list[Stored]:
    """How a model's parameters lie in its file."""
    modules = MODULES.get(config.model_type, {})
    specs = param_specs(config)
    together: dict[str, list[str]] = {}
    for name in specs:
        together.setdefault(stored_name(name, modules), []).append(name)
    return [
        Stored(
            name,
            tuple(parameters),
            config.model_type in TRANSPOSED and specs[parameters[0]].is_hidden_matrix,
        )
        for name, parameters in together.items()
    ]


def stored_name(name: str, modules: Mapping[str, str]) -> str:
    """The family's name of the tensor that holds one of our parameters."""
    layer = re.fullmatch(r"(model\.layers)(\.\d+\.)(.+)\.(\w+)", name)
    if layer is None:
        module, _, kind = name.rpartition(".")
        return f"{modules.get(module, module)}.{kind}"
    layers, number, module, kind = layer.groups()
    return f"{modules.get(layers, layers)}{number}{modules.get(module, module)}.{kind}"


def unpack(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint under our names, in our shapes, from one under its family's.

    Args:
        checkpoint: a directory as it is. Tensors that the family does not have keep their names.
    """
    config = checkpoint.config
    if config.model_type not in MODULES:
        return checkpoint
    tensors = dict(checkpoint.tensors)
    is_bare = not any(name.startswith(GPT2_PREFIX) for name in tensors)

    places: dict[str, tuple[str, int, Stored]] = {}
    for stored in stored_tensors(config):
        name = stored.name.removeprefix(GPT2_PREFIX) if is_bare else stored.name
        if name not in tensors:
            continue
        info = tensors.pop(name)
        for place, parameter in enumerate(stored.parameters):
            tensors[parameter] = TensorInfo(_part_shape(info.shape, stored), info.kind)
            places[parameter] = (name, place, stored)

    def read(name: str, dtype: np.dtype[Any]) -> np.ndarray:
        if name not in places:
            return checkpoint.read(name, dtype)
        source, place, stored = places[name]
        whole = checkpoint.read(source, dtype)
        whole = whole.T if stored.is_transposed else whole
        parts = np.split(whole, len(stored.parameters), axis=0)
        return np.ascontiguousarray(parts[place])

    return replace(checkpoint, tensors=tensors, read=read)


def pack(
    config: DecoderConfig, shapes: Mapping[str, tuple[int, ...]], read: Read
) -> tuple[dict[str, tuple[int, ...]], Read]:
    """The opposite: shapes and reader under the family's names, from those under ours."""
    if config.model_type not in MODULES:
        return dict(shapes), read
    stored_by_name = {stored.name: stored for stored in stored_tensors(config)}

    def packed_shape(stored: Stored) -> tuple[int, ...]:
        parts = [shapes[name] for name in stored.parameters]
        shape = (sum(part[0] for part in parts), *parts[0][1:])
        return shape[::-1] if stored.is_transposed else shape

    def read_packed(name: str, dtype: np.dtype[Any]) -> np.ndarray:
        stored = stored_by_name[name]
        whole = np.concatenate([read(parameter, dtype) for parameter in stored.parameters], axis=0)
        return whole.T if stored.is_transposed else whole

    return {name: packed_shape(s) for name, s in stored_by_name.items()}, read_packed


def _part_shape(shape: tuple[int, ...], stored: Stored) -> tuple[int, ...]:
    """The shape of each parameter in a stored tensor; the tensor's own if it cannot be cut so."""
    if stored.is_transposed:
        shape = shape[::-1]
    n_parts = len(stored.parameters)
    if not shape or shape[0] % n_parts:
        return shape
    return (shape[0] // n_parts, *shape[1:])
