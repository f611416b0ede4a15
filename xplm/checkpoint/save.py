"""Writing a Hugging Face directory that transformers loads.

A safetensors file is the length of its header (u64, little-endian), the header as JSON (name -> dtype, shape, first
and last byte), and the tensors end to end. It is written here tensor by tensor, because the library's own writer
wants a whole shard in memory.

Nothing is under its final name until all of it is on the disk.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xplm.checkpoint.files import new_directory, sync, write_json
from xplm.checkpoint.huggingface import CONFIG, INDEX, WEIGHTS
from xplm.checkpoint.layouts import pack
from xplm.config import DecoderConfig
from xplm.models.families.config_json import write_config
from xplm.precision import HOST_DTYPES

SAFETENSORS_NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
MODEL_DTYPES = ("float32", "float16", "bfloat16")
"""What a model's weights are stored in; float64 is for the state of its training."""

SHARD_BYTES = 5 * 10**9
HEADER_ALIGNMENT = 8  # bytes


def save_directory(
    path: Path,
    config: DecoderConfig,
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str, np.dtype[Any]], np.ndarray],
    dtype: str,
    write_tokenizer: Callable[[Path], None],
    *,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a model.

    Args:
        path: the directory to make; it must not exist, or be empty.
        config: the model's configuration.
        shapes: the shape of each parameter, by Hugging Face name.
        read: gives one parameter in a dtype; called once for each, so that one is in memory at a time.
        dtype: "float32", "float16" or "bfloat16".
        write_tokenizer: writes the tokenizer's files into the directory that it is given.
        shard_bytes: the largest shard, unless one tensor is larger.

    Raises:
        CheckpointError: the directory is there already, or the disk refuses.
    """
    shapes, read = pack(config, shapes, read)
    n_bytes = {name: math.prod(s) * HOST_DTYPES[dtype].itemsize for name, s in shapes.items()}
    shards = _plan_shards(n_bytes, shard_bytes)

    with new_directory(path) as partial:
        for shard, names in shards.items():
            write_tensors(partial / shard, {name: shapes[name] for name in names}, read, dtype)
        if len(shards) > 1:
            weight_map = {name: shard for shard, names in shards.items() for name in names}
            index = {"metadata": {"total_size": sum(n_bytes.values())}, "weight_map": weight_map}
            write_json(partial / INDEX, index)
        write_json(partial / CONFIG, write_config(config) | {"torch_dtype": dtype})
        write_tokenizer(partial)


def _plan_shards(n_bytes: Mapping[str, int], shard_bytes: int) -> dict[str, list[str]]:
    """Names of tensors, in their order, by the name of their shard."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in n_bytes.items():
        if groups[-1] and filled + size > shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size

    if len(groups) == 1:
        return {WEIGHTS: groups[0]}
    return {
        f"model-{number:05}-of-{len(groups):05}.safetensors": names
        for number, names in enumerate(groups, start=1)
    }


def write_tensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str, np.dtype[Any]], np.ndarray],
    dtype: str,
) -> None:
    """Write one safetensors file, tensor by tensor, and flush it to the disk.

    Args:
        path: the file.
        shapes: the shape of each tensor, by name.
        read: gives one tensor in a dtype.
        dtype: of all of them, by its array-API name.

    Raises:
        OSError: the disk refuses.
    """
    host_dtype = HOST_DTYPES[dtype]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers asks for it
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * host_dtype.itemsize
        header[name] = {
            "dtype": SAFETENSORS_NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % HEADER_ALIGNMENT)

    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in shapes:
            array = np.ascontiguousarray(read(name, host_dtype))
            assert (array.dtype, array.shape) == (host_dtype, shapes[name]), name
            file.write(array.reshape(-1).view(np.uint8).data)
        file.flush()
        sync(file.fileno())
