"""Families whose files name or arrange parameters otherwise than Llama's do.

A parameter is in one stored tensor; a stored tensor holds one parameter, or several joined along their outputs, or
either transposed. The family's file says which (`Family.modules`), and reading and writing both follow it.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from xplm.checkpoint.checkpoint import Checkpoint, TensorInfo
from xplm.config import DecoderConfig
from xplm.models.decoder import param_specs
from xplm.models.families.table import FAMILIES

Read = Callable[[str, np.dtype[Any]], np.ndarray]
"""(name, dtype) -> the tensor."""


class Stored(NamedTuple):
    """A tensor of a file, and what is in it."""

    name: str
    parameters: tuple[str, ...]  # ours, in their order along the outputs
    is_transposed: bool


def stored_tensors(config: DecoderConfig) -> list[Stored]:
    """How a model's parameters lie in its file."""
    family = FAMILIES[config.model_type]
    specs = param_specs(config)
    together: dict[str, list[str]] = {}
    for name in specs:
        together.setdefault(stored_name(name, family.modules), []).append(name)
    return [
        Stored(
            name,
            tuple(parameters),
            family.is_transposed and specs[parameters[0]].is_hidden_matrix,
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
    family = FAMILIES[config.model_type]
    if not family.modules:
        return checkpoint
    tensors = dict(checkpoint.tensors)
    prefix = family.bare_prefix
    is_bare = not any(name.startswith(prefix) for name in tensors)

    places: dict[str, tuple[str, int, Stored]] = {}
    for stored in stored_tensors(config):
        name = stored.name.removeprefix(prefix) if is_bare else stored.name
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
    if not FAMILIES[config.model_type].modules:
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
