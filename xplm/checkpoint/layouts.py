"""Families whose files name or arrange parameters otherwise than Llama's do.

A stored tensor holds one parameter, or several joined along an axis, or one entry of a parameter's first axis; each of
these may be transposed. The family's file says which (`xplm.models.families.stored`), and reading and writing both
follow it.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from xplm.checkpoint.checkpoint import Checkpoint, TensorInfo
from xplm.config import DecoderConfig
from xplm.errors import CheckpointError, visible
from xplm.models.decoder import param_specs
from xplm.models.families.family import Family, no_modules
from xplm.models.families.stored import Modules, StoredAs
from xplm.models.families.table import FAMILIES
from xplm.params import ParamSpec

Read = Callable[[str, np.dtype[Any]], np.ndarray]
"""(name, dtype) -> the tensor."""
Shape = tuple[int, ...]

MAX_LISTED = 8  # tensors in a message
LAYER = re.compile(r"(model\.layers)\.(\d+)\.(.+)\.(\w+)")


class Stored(NamedTuple):
    """A tensor of a file, or one for each entry of a parameter's first axis, and what is in it."""

    name: str  # with "{}" where there are several
    parameters: tuple[str, ...]  # ours, in their order along the axis
    layout: StoredAs
    is_transposed: bool

    @property
    def is_numbered(self) -> bool:
        """Whether there is one for each entry of the parameter's first axis."""
        return "{}" in self.name

    def shape(self, parts: Sequence[Shape]) -> Shape:
        """The shape of a stored tensor, from those of its parameters."""
        axis, first = self.layout.axis, parts[0]
        shape = (*first[:axis], sum(part[axis] for part in parts), *first[axis + 1 :])
        shape = shape[1:] if self.is_numbered else shape
        return (*shape[:-2], *shape[:-3:-1]) if self.is_transposed else shape

    def join(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """The stored tensor, from its parameters; of a numbered one, from an entry."""
        whole = parts[0] if self.is_numbered else join(parts, self.layout.groups, self.layout.axis)
        return np.matrix_transpose(whole) if self.is_transposed else whole

    def split(self, whole: np.ndarray, parts: Sequence[Shape]) -> list[np.ndarray]:
        """The opposite, into parts of these shapes."""
        whole = np.matrix_transpose(whole) if self.is_transposed else whole
        if self.is_numbered:
            return [whole]
        axis = self.layout.axis
        return split(whole, [part[axis] for part in parts], self.layout.groups, axis)


def join(parts: Sequence[np.ndarray], groups: int, axis: int = 0) -> np.ndarray:
    """Arrays joined along an axis, group by group (`StoredAs`)."""
    cut = [_in_groups(part, groups, axis) for part in parts]
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    return np.concatenate(cut, axis=axis + 1).reshape(shape)


def split(whole: np.ndarray, sizes: Sequence[int], groups: int, axis: int = 0) -> list[np.ndarray]:
    """The opposite, into arrays of these sizes along the axis."""
    ends = [*accumulate(size // groups for size in sizes)]
    parts = np.split(_in_groups(whole, groups, axis), ends[:-1], axis=axis + 1)
    before, after = whole.shape[:axis], whole.shape[axis + 1 :]
    return [part.reshape(*before, size, *after) for part, size in zip(parts, sizes, strict=True)]


def _in_groups(array: np.ndarray, groups: int, axis: int) -> np.ndarray:
    before, size, after = array.shape[:axis], array.shape[axis], array.shape[axis + 1 :]
    assert size % groups == 0, f"{size} rows are not in {groups} groups"
    return array.reshape(*before, groups, size // groups, *after)


def stored_tensors(config: DecoderConfig) -> list[Stored]:
    """How a model's parameters are stored in its file."""
    family = FAMILIES[config.model_type]
    modules = {b: {**family.modules, **family.block_modules(b)} for b in {*config.blocks}}
    together: dict[str, tuple[StoredAs, str, list[str]]] = {}
    for name in param_specs(config):
        layer = LAYER.fullmatch(name)
        own = modules[config.blocks[int(layer[2])]] if layer else family.modules
        module, kind = stored_module(name, own)
        stored = together.setdefault(module.tensor(kind), (module, kind, []))
        stored[2].append(name)
    return [
        Stored(name, tuple(parameters), module, module.is_transposed and kind == "weight")
        for name, (module, kind, parameters) in together.items()
    ]


def stored_module(name: str, modules: Modules) -> tuple[StoredAs, str]:
    """The family's module that holds one of our parameters, and the kind of tensor that it is there."""
    layer = LAYER.fullmatch(name)
    if layer is None:
        module, _, kind = name.rpartition(".")
        return _stored_as(module, modules), kind
    layers, number, module, kind = layer.groups()
    stored = _stored_as(module, modules)
    name = f"{_stored_as(layers, modules).name}.{number}.{stored.name}"
    return replace(stored, name=name), kind


def _stored_as(module: str, modules: Modules) -> StoredAs:
    stored = modules.get(module, module)
    return StoredAs(stored) if isinstance(stored, str) else stored


def _is_as_ours(family: Family) -> bool:
    return not family.modules and family.block_modules is no_modules


def unpack(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint under our names, in our shapes, from one under its family's.

    Args:
        checkpoint: a directory as it is. Tensors that the family does not have keep their names.

    Raises:
        CheckpointError: a tensor has not the shape of what is joined in it, or is one of several, not all there.
    """
    config = checkpoint.config
    family = FAMILIES[config.model_type]
    if _is_as_ours(family):
        return checkpoint
    tensors, specs = dict(checkpoint.tensors), param_specs(config)
    prefix = family.bare_prefix
    is_bare = not any(name.startswith(prefix) for name in tensors)

    infos: dict[str, TensorInfo] = {}
    found: dict[str, tuple[Stored, tuple[str, ...]]] = {}
    wrong: list[str] = []
    for stored in stored_tensors(config):
        parts = [specs[name].shape for name in stored.parameters]
        names = _names_in(checkpoint, stored, parts[0], prefix if is_bare else "")
        if not names:
            continue
        shape, shapes = stored.shape(parts), [checkpoint.tensors[name].shape for name in names]
        wrong += [
            f"{visible(name)} of shape {got} where {shape} belongs"
            for name, got in zip(names, shapes, strict=True)
            if got != shape
        ]
        kinds = [tensors.pop(name).kind for name in names]
        odd = [kind for kind in kinds if kind not in checkpoint.kinds]
        for name, part in zip(stored.parameters, parts, strict=True):
            infos[name] = TensorInfo(part, (odd or kinds)[0])
            found[name] = stored, names
    if wrong:
        more = f" and {len(wrong) - MAX_LISTED} more" if len(wrong) > MAX_LISTED else ""
        raise CheckpointError(
            f"{checkpoint.path} must hold tensors of the shapes that its configuration asks for; got "
            f"{', '.join(wrong[:MAX_LISTED])}{more}; check that config and weights belong together"
        )
    for name in infos.keys() & tensors.keys():
        raise CheckpointError(
            f"a tensor must be stored once; {checkpoint.path} holds {visible(name)} and "
            f"{visible(found[name][1][0])}"
        )
    read = _make_read(checkpoint, specs, found)
    return replace(checkpoint, tensors=tensors | infos, read=read)


def _make_read(
    checkpoint: Checkpoint,
    specs: Mapping[str, ParamSpec],
    found: Mapping[str, tuple[Stored, tuple[str, ...]]],
) -> Read:
    """Reads parameters: those that are `found` out of what they are stored as, under the names of these tensors."""

    def read(name: str, dtype: np.dtype[Any]) -> np.ndarray:
        if name not in found:
            return checkpoint.read(name, dtype)
        stored, names = found[name]
        parts = [specs[parameter].shape for parameter in stored.parameters]
        place = stored.parameters.index(name)
        if not stored.is_numbered:
            part = stored.split(checkpoint.read(names[0], dtype), parts)[place]
            return np.ascontiguousarray(part)
        whole = np.empty(parts[place], dtype)
        for number, source in enumerate(names):
            whole[number] = stored.split(checkpoint.read(source, dtype), parts)[place]
        return whole

    return read


def _names_in(checkpoint: Checkpoint, stored: Stored, shape: Shape, bare: str) -> tuple[str, ...]:
    """The names of a stored tensor, or of all its numbered ones; none if the file has none of them.

    Raises:
        CheckpointError: it has some of them.
    """
    names = [name.removeprefix(bare) for name in _names(stored, shape)]
    absent = [name for name in names if name not in checkpoint.tensors]
    if 0 < len(absent) < len(names):
        more = f" and {len(absent) - MAX_LISTED} more" if len(absent) > MAX_LISTED else ""
        raise CheckpointError(
            f"{checkpoint.path} must hold all {len(names)} of {visible(stored.name)}; it lacks "
            f"{', '.join(map(visible, absent[:MAX_LISTED]))}{more}; download it again"
        )
    return () if absent else tuple(names)


def _names(stored: Stored, shape: Shape) -> Iterator[str]:
    """The name of a stored tensor, or those of the numbered ones of a parameter of this shape."""
    if not stored.is_numbered:
        yield stored.name
        return
    for number in range(shape[0]):
        yield stored.name.replace("{}", str(number))


def pack(
    config: DecoderConfig, shapes: Mapping[str, Shape], read: Read
) -> tuple[dict[str, Shape], Read]:
    """The opposite: shapes and reader under the family's names, from those under ours."""
    if _is_as_ours(FAMILIES[config.model_type]):
        return dict(shapes), read
    read_latest = lru_cache(maxsize=1)(read)  # numbered tensors are entries of one parameter
    packed: dict[str, Shape] = {}
    places: dict[str, tuple[Stored, int]] = {}
    for stored in stored_tensors(config):
        parts = [shapes[name] for name in stored.parameters]
        for number, name in enumerate(_names(stored, parts[0])):
            packed[name], places[name] = stored.shape(parts), (stored, number)

    def read_packed(name: str, dtype: np.dtype[Any]) -> np.ndarray:
        stored, number = places[name]
        if stored.is_numbered:
            return stored.join([read_latest(stored.parameters[0], dtype)[number]])
        return stored.join([read(parameter, dtype) for parameter in stored.parameters])

    return packed, read_packed
