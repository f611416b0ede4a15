"""Reading a safetensors file without mapping its tensors.

    n_bytes u64, little-endian
    header  JSON: {name: {"dtype": ..., "shape": [...], "data_offsets": [begin, end]}, "__metadata__": {...}}
    the tensors, end to end, without holes: offsets count from here

The safetensors library checks the header. It maps the file, and a process dies that reads a mapping whose file was
shortened; so the mapping is closed at once, and a tensor is read into memory of its own. What is not there is an error.

Source: the format's description in the README of huggingface/safetensors.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

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
"""What a parameter can be read from."""

BYTES: dict[str, np.dtype[Any]] = {"U8": np.dtype(np.uint8)}
"""What quantised weights are packed in."""

LENGTH_BYTES = 8
MAX_DIMS = 64  # those that NumPy has


class SafetensorsEntry(NamedTuple):
    """Where a tensor is in the file."""

    kind: str  # "F32", "BF16", ...
    shape: tuple[int, ...]
    offset: int  # bytes from the start of the file


class SafetensorsFile(NamedTuple):
    """The header of a file; tensors are read when they are asked for."""

    path: Path
    stamp: Stamp
    tensors: Mapping[str, SafetensorsEntry]

    def read(self, name: str, kinds: Mapping[str, np.dtype[Any]] = FLOATS) -> np.ndarray:
        """Read one tensor of one of these kinds.

        Raises:
            CheckpointError: it is of another kind, or the file cannot be read, or was changed.
        """
        stored = self.tensors[name]
        if stored.kind not in kinds:
            raise CheckpointError(
                f"tensor {name} of {self.path} must be stored as one of {', '.join(kinds)}; got {stored.kind}; "
                "convert it"
            )
        try:
            array = np.empty(stored.shape, kinds[stored.kind])
            with reopen(self.path, self.stamp, stored.offset) as file:
                read_into(file, array)
        except (OSError, ValueError) as cause:  # ValueError: dimensions that NumPy does not have
            raise CheckpointError(
                f"tensor {name} must be readable from {self.path}; got: {cause}"
            ) from cause
        return array


def open_safetensors(path: Path) -> SafetensorsFile:
    """Read the header of a file; the safetensors library checks it.

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
            header = parse_json(text)
            with safe_open(path, framework="numpy"):  # checks every entry, and the file's length
                pass
        tensors = {
            name: _entry(name, entry, start)
            for name, entry in header.items()
            if name != "__metadata__"
        }
        reopen(path, stamp, 0).close()  # what was checked is what was read
    except OSError as cause:
        raise CheckpointError(f"{path} must be readable; got: {cause.strerror or cause}") from cause
    except (ValueError, SafetensorError) as cause:
        raise CheckpointError(
            f"{path} must be a whole safetensors file; got: {cause}; download it again"
        ) from cause
    return SafetensorsFile(path, stamp, tensors)


def _entry(name: str, entry: Any, start: int) -> SafetensorsEntry:
    """A tensor's entry of a header that the library has checked; tensors begin at `start`.

    Raises:
        ValueError: it has too many dimensions, or is in a form that the library takes and the format does not name.
    """
    if not isinstance(entry, dict) or not isinstance(entry["dtype"], str):
        raise ValueError(f"a malformed entry of the tensor {name}")
    if len(entry["shape"]) > MAX_DIMS:
        raise ValueError(f"{len(entry['shape'])} dimensions of the tensor {name}")
    return SafetensorsEntry(entry["dtype"], tuple(entry["shape"]), start + entry["data_offsets"][0])
