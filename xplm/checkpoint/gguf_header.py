"""Reading the header of a GGUF file: its metadata, and where each tensor lies.

    "GGUF"  version u32  n_tensors u64  n_entries u64
    n_entries x  (key string, value type u32, value)
    n_tensors x  (name string, n_dims u32, dims u64 each, fastest first, kind u32, offset u64)
    padding to general.alignment, then the tensors, at their offsets from here

A string is its length in bytes (u64), then UTF-8. An array is its element type (u32), its length (u64), its elements.
Everything is little-endian.

Source: the GGUF specification of the ggml project; numbers of types and kinds come from the gguf package.

The gguf package's own reader believes every length and takes 2.7 s for a vocabulary of 49,152 tokens, so this one
checks each length against the bytes that are left before it allocates or loops, and slices arrays whole. The header
is read, not mapped, and only as far as it goes.
"""

import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from xplm.checkpoint.untrusted import MAX_LARGE_BYTES, Stamp, open_regular, take_stamp
from xplm.errors import CheckpointError

VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32  # bytes
MAX_DIMS = 4
READ_BYTES = 2**20  # at a time

SCALARS = {
    GGUFValueType.UINT8: "<u1",
    GGUFValueType.INT8: "<i1",
    GGUFValueType.UINT16: "<u2",
    GGUFValueType.INT16: "<i2",
    GGUFValueType.UINT32: "<u4",
    GGUFValueType.INT32: "<i4",
    GGUFValueType.FLOAT32: "<f4",
    GGUFValueType.UINT64: "<u8",
    GGUFValueType.INT64: "<i8",
    GGUFValueType.FLOAT64: "<f8",
    GGUFValueType.BOOL: "?",
}


class StoredTensor(NamedTuple):
    """Where a tensor lies in the file, and how it is packed."""

    shape: tuple[int, ...]  # slowest dimension first, in elements
    kind: GGMLQuantizationType
    offset: int  # bytes from the start of the file
    row_bytes: int  # bytes of one row, the fastest dimension
    n_bytes: int


class GGUFHeader(NamedTuple):
    """All of a file but its weights."""

    metadata: dict[str, Any]  # numbers, strings and lists of them
    tensors: dict[str, StoredTensor]
    stamp: Stamp  # of the file


def read_gguf_header(path: Path) -> GGUFHeader:
    """Read and check the header of a GGUF file.

    Args:
        path: the file.

    Returns:
        Its metadata, and its tensors by GGUF name; every one of them lies inside the file.

    Raises:
        CheckpointError: the file is missing, not GGUF, of another version or byte order, truncated, or malformed.
    """
    try:
        with open_regular(path) as file:
            return _parse(file)
    except OSError as cause:
        raise CheckpointError(f"{path} must be readable; got: {cause.strerror}") from cause
    except _MalformedError as cause:
        raise CheckpointError(
            f"{path} must be a whole GGUF file; got: {cause}; download it again"
        ) from cause


class _MalformedError(Exception):
    """What is wrong with the header."""


class _Cursor:
    """A position in the file that moves forward and never past the end, or past MAX_LARGE_BYTES."""

    def __init__(self, file: BinaryIO, n_bytes: int) -> None:
        self.file = file
        self.n_bytes = n_bytes  # of the file
        self.data = bytearray()  # what was read so far
        self.position = 0

    def need(self, end: int) -> None:
        """Read up to an offset, at least."""
        if end <= len(self.data):
            return
        start = self.position
        if end > self.n_bytes:
            raise _MalformedError(f"{end - start} bytes at {start} in a file of {self.n_bytes}")
        if end > MAX_LARGE_BYTES:
            raise _MalformedError(f"a header of more than {MAX_LARGE_BYTES} bytes")
        self.data += self.file.read(max(end - len(self.data), READ_BYTES))
        if end > len(self.data):
            raise _MalformedError("a file that becomes shorter while it is read")

    def take(self, n_bytes: int) -> bytes:
        end = self.position + n_bytes
        self.need(end)
        taken = bytes(memoryview(self.data)[self.position : end])
        self.position = end
        return taken

    def u32(self) -> int:
        return int(struct.unpack("<I", self.take(4))[0])

    def u64(self) -> int:
        return int(struct.unpack("<Q", self.take(8))[0])

    def string(self) -> str:
        (text,) = self.strings(1)
        return text

    def strings(self, count: int) -> list[str]:
        """So many strings, in one loop: a vocabulary has a hundred thousand."""
        data, length_at = self.data, struct.Struct("<Q").unpack_from
        end, found = self.position, []
        for _ in range(count):
            start = end + 8
            if start > len(data):
                self.need(start)
            end = start + length_at(data, end)[0]
            if end > len(data):
                self.need(end)
            try:
                found.append(data[start:end].decode())
            except UnicodeDecodeError as cause:
                raise _MalformedError(f"a string at {start - 8} that is not UTF-8") from cause
            self.position = end
        return found

    def value_type(self) -> GGUFValueType:
        number = self.u32()
        try:
            return GGUFValueType(number)
        except ValueError as cause:
            raise _MalformedError(f"value type {number} at {self.position - 4}") from cause

    def scalars(self, kind: GGUFValueType, count: int) -> list[Any]:
        dtype = np.dtype(SCALARS[kind])
        values: list[Any] = np.frombuffer(self.take(count * dtype.itemsize), dtype).tolist()
        return values

    def value(self) -> Any:
        kind = self.value_type()
        if kind == GGUFValueType.STRING:
            return self.string()
        if kind != GGUFValueType.ARRAY:
            return self.scalars(kind, 1)[0]

        element, count = self.value_type(), self.u64()
        if element == GGUFValueType.ARRAY:
            raise _MalformedError(f"an array of arrays at {self.position}")
        if element == GGUFValueType.STRING:
            return self.strings(count)
        return self.scalars(element, count)


def _parse(file: BinaryIO) -> GGUFHeader:
    stamp = take_stamp(file)
    if stamp.n_bytes == 0:
        raise _MalformedError("an empty file")
    cursor = _Cursor(file, stamp.n_bytes)
    if (magic := cursor.take(4)) != b"GGUF":
        raise _MalformedError(f"{magic!r} where a GGUF file starts with b'GGUF'")
    if (version := cursor.u32()) not in VERSIONS:
        raise _MalformedError(f"version {version} (read as little-endian) where 2 and 3 are known")
    n_tensors, n_entries = cursor.u64(), cursor.u64()

    metadata: dict[str, Any] = {}
    for _ in range(n_entries):
        key = cursor.string()
        if key in metadata:
            raise _MalformedError(f"the key {key!r} twice")
        metadata[key] = cursor.value()

    tensors: dict[str, StoredTensor] = {}
    for _ in range(n_tensors):
        name = cursor.string()
        if name in tensors:
            raise _MalformedError(f"the tensor {name!r} twice")
        tensors[name] = _tensor(cursor, name)

    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise _MalformedError(f"general.alignment {alignment!r} where a power of two belongs")
    start = -(-cursor.position // alignment) * alignment
    for name, tensor in tensors.items():
        if start + tensor.offset + tensor.n_bytes > stamp.n_bytes:
            raise _MalformedError(
                f"the tensor {name!r} of {tensor.n_bytes} bytes at {start + tensor.offset} "
                f"in a file of {stamp.n_bytes}"
            )
    placed = {name: t._replace(offset=start + t.offset) for name, t in tensors.items()}
    return GGUFHeader(metadata, placed, stamp)


def _tensor(cursor: _Cursor, name: str) -> StoredTensor:
    """One tensor's entry; its offset is still from the start of the tensors."""
    n_dims = cursor.u32()
    if not 1 <= n_dims <= MAX_DIMS:
        raise _MalformedError(f"the tensor {name!r} with {n_dims} dimensions")
    dims = [cursor.u64() for _ in range(n_dims)]
    number = cursor.u32()
    try:
        kind = GGMLQuantizationType(number)
    except ValueError as cause:
        raise _MalformedError(f"the tensor {name!r} of kind {number}") from cause

    block, block_bytes = GGML_QUANT_SIZES[kind]
    if dims[0] % block:
        raise _MalformedError(f"the tensor {name!r} with rows of {dims[0]} in blocks of {block}")
    row_bytes = dims[0] // block * block_bytes
    n_bytes = row_bytes
    for dim in dims[1:]:
        n_bytes *= dim
    return StoredTensor(tuple(reversed(dims)), kind, cursor.u64(), row_bytes, n_bytes)
