"""Reading a safetensors file without mapping it.

    n_bytes u64, little-endian
    header  JSON: {name: {"dtype": ..., "shape": [...], "data_offsets": [begin, end]}, "__metadata__": {...}}
    the tensors, end to end, without holes: offsets count from here

The safetensors library maps the file, and a process dies that reads a mapping whose file was shortened. Here a tensor
is read into memory of its own, and what is not there is an error.

Source: the format's description in the README of huggingface/safetensors.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from xplm.checkpoint.untrusted import (
    MAX_LARGE_BYTES,
    Stamp,
    open_regular,
    parse_json,
    read_into,
    reopen,
    take_stamp,
)
from xplm.errors import CheckpointError

FLOATS: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
"""What can be read."""

OTHER_BYTES = {
    "I64": 8,
    "U64": 8,
    "I32": 4,
    "U32": 4,
    "I16": 2,
    "U16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
OTHER_BYTES |= {"F8_E4M3": 1, "F8_E5M2": 1}
"""Bytes of an element of what can be there, and is not read."""

LENGTH_BYTES = 8


class StoredTensor(NamedTuple):
    """Where a tensor is in the file."""

    kind: str  # "F32", "BF16", ...
    shape: tuple[int, ...]
    offset: int  # bytes from the start of the file


class SafetensorsFile(NamedTuple):
    """The header of a file; tensors are read when they are asked for."""

    path: Path
    stamp: Stamp
    tensors: Mapping[str, StoredTensor]

    def read(self, name: str) -> np.ndarray:
        """Read one tensor of a kind in FLOATS.

        Raises:
            CheckpointError: it is of another kind, or the file cannot be read, or was changed.
        """
        stored = self.tensors[name]
        if stored.kind not in FLOATS:
            raise CheckpointError(
                f"tensor {name} of {self.path} must be stored as one of {', '.join(FLOATS)}; got {stored.kind}; "
                "convert it"
            )
        try:
            array = np.empty(stored.shape, FLOATS[stored.kind])
            with reopen(self.path, self.stamp, stored.offset) as file:
                read_into(file, array)
        except (OSError, ValueError) as cause:  # ValueError: dimensions that NumPy does not have
            raise CheckpointError(
                f"tensor {name} must be readable from {self.path}; got: {cause}"
            ) from cause
        return array


def open_safetensors(path: Path) -> SafetensorsFile:
    """Read and check the header of a file.

    Raises:
        CheckpointError: the file cannot be read, is shorter or longer than its header says, or malformed.
    """
    try:
        with open_regular(path) as file:
            stamp = take_stamp(file)
            n_bytes = int.from_bytes(file.read(LENGTH_BYTES), "little")
            start = LENGTH_BYTES + n_bytes
            if start > stamp.n_bytes or n_bytes > MAX_LARGE_BYTES:
                raise ValueError(f"a header of {n_bytes} bytes in a file of {stamp.n_bytes}")
            text = file.read(n_bytes).decode()
        return SafetensorsFile(path, stamp, _tensors(parse_json(text), start, stamp.n_bytes))
    except OSError as cause:
        raise CheckpointError(f"{path} must be readable; got: {cause.strerror}") from cause
    except ValueError as cause:
        raise CheckpointError(
            f"{path} must be a whole safetensors file; got: {cause}; download it again"
        ) from cause


def _tensors(header: Any, start: int, n_bytes: int) -> dict[str, StoredTensor]:
    """The tensors of a file of `n_bytes`, which begin at `start`.

    Raises:
        ValueError: an entry is malformed, or the tensors do not fill the file end to end.
    """
    if not isinstance(header, dict):
        raise ValueError(f"a header that is a {type(header).__name__}")
    tensors, stretches = {}, []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        kind, shape, offsets = _fields(name, entry)
        begin, end = offsets
        size = FLOATS[kind].itemsize if kind in FLOATS else OTHER_BYTES.get(kind)
        if size is not None and end - begin != math.prod(shape) * size:
            raise ValueError(
                f"{end - begin} bytes for the tensor {name}, {kind} of shape {tuple(shape)}"
            )
        stretches.append((begin, end))
        tensors[name] = StoredTensor(kind, tuple(shape), start + begin)

    filled = 0
    for begin, end in sorted(stretches):
        if begin != filled or end < begin:
            raise ValueError(f"a tensor from {begin} to {end} after one that ends at {filled}")
        filled = end
    if start + filled != n_bytes:
        raise ValueError(f"{n_bytes} bytes where its header says {start + filled}")
    return tensors


def _fields(name: str, entry: Any) -> tuple[str, list[int], list[int]]:
    """dtype, shape and data_offsets of a tensor's entry."""
    entry = entry if isinstance(entry, dict) else {}
    kind, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    is_entry = isinstance(kind, str) and _is_sizes(shape) and _is_sizes(offsets)
    if not is_entry or len(offsets) != 2:
        raise ValueError(f"a malformed entry of the tensor {name}")
    return kind, shape, offsets


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)
