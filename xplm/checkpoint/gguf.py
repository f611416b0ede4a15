"""Opening a GGUF file: Hugging Face names, dequantised on reading, q and k rows put back in half-split order.

Row order. Files of the "llama" architecture store the rows of q and k so that the two halves
of a rotated pair are neighbours:

    Hugging Face   a0 a1 ... b0 b1 ...        pair i is rows i and i + D/2 of its head
    GGUF           a0 b0 a1 b1 ...            pair i is rows 2i and 2i + 1

xplm rotates halves, so each head's rows go back from (D/2, 2) to (2, D/2). Others store them in Hugging Face's order
(`GGUFLayout.has_interleaved_rows`).

Norms. Where a norm multiplies by 1 + weight, the file holds that sum, and 1 is taken off again in float32
(`GGUFLayout.norm_offset`).

Memory. A tensor is unpacked a few rows at a time into its final dtype: a float32 copy of the whole of it never exists.
"""

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from xplm.checkpoint.checkpoint import Checkpoint, TensorInfo, to_dtype
from xplm.checkpoint.gguf_config import config_from_gguf, get_layout
from xplm.checkpoint.gguf_cut import CutTensor, Unpack, take_cut_tensors
from xplm.checkpoint.gguf_header import StoredTensor, read_gguf_header
from xplm.checkpoint.gguf_names import hugging_face_name, is_vector, parts_of
from xplm.checkpoint.gguf_rope import FACTOR_TENSORS
from xplm.checkpoint.untrusted import Stamp, read_into, reopen
from xplm.config import DecoderConfig
from xplm.errors import CheckpointError, visible
from xplm.models.decoder import param_specs
from xplm.models.families.gguf import JOINED, GGUFLayout
from xplm.params import ParamSpec

PLAIN_DTYPES: dict[GGMLQuantizationType, np.dtype[Any]] = {
    GGMLQuantizationType.F64: np.dtype(np.float64),
    GGMLQuantizationType.F32: np.dtype(np.float32),
    GGMLQuantizationType.F16: np.dtype(np.float16),
    GGMLQuantizationType.BF16: np.dtype(ml_dtypes.bfloat16),
}
_QUANTISED_NAMES = """
    Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K
    IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S IQ4_NL IQ4_XS TQ1_0 TQ2_0 MXFP4 NVFP4
"""
QUANTISED_KINDS = tuple(
    GGMLQuantizationType[name]
    for name in _QUANTISED_NAMES.split()
    if name in GGMLQuantizationType.__members__  # older releases of the package lack the last two
)
STORED_KINDS = tuple(kind.name for kind in (*PLAIN_DTYPES, *QUANTISED_KINDS))

ELEMENTS_AT_ONCE = 2**18  # 1 MiB of float32: fits a cache, and makes a call worth its cost

READERS = 2
"""Tensors that are unpacked at a time, each a few rows after the other."""

INTERLEAVED = re.compile(r"model\.layers\.\d+\.self_attn\.[qk]_proj\.(weight|bias)")


def open_gguf(path: Path) -> Checkpoint:
    """Open a GGUF file. Reads its header, and the table of RoPE factors where there is one.

    Args:
        path: the file.

    Returns:
        The checkpoint; nothing of its weights is in memory yet.

    Raises:
        CheckpointError: the file is missing, truncated or malformed, or stores a kind that cannot be read.
        ConfigError: its architecture is not one of xplm's.
    """
    metadata, stored, stamp = read_gguf_header(path)
    unpack = partial(_unpack, path, stamp)
    rope_factors = {}
    for name in FACTOR_TENSORS:
        factors = stored.pop(name, None)
        if factors is None:
            continue
        if factors.kind != GGMLQuantizationType.F32 or len(factors.shape) != 1:
            raise CheckpointError(
                f"{name} must be a vector in F32; {path} stores {factors.kind.name} of "
                f"shape {factors.shape}; convert the model again"
            )
        rope_factors[name] = unpack(factors, np.dtype(np.float32), name)
    config = config_from_gguf(
        metadata, {name: tensor.shape for name, tensor in stored.items()}, rope_factors
    )

    layout = get_layout(config.model_type, metadata["general.architecture"]).of(config.blocks[0])
    cut = take_cut_tensors(stored, layout)
    named: dict[str, StoredTensor] = {}
    for name, tensor in _split_joined(stored, config, layout):
        ours = hugging_face_name(name, layout)
        if ours in named or ours in cut:
            raise CheckpointError(
                f"a tensor must be stored once; {path} holds {visible(ours)} twice"
            )
        named[ours] = _as_row(tensor) if is_vector(ours, layout) else tensor
    tensors = {name: TensorInfo(tensor.shape, tensor.kind.name) for name, tensor in named.items()}
    tensors |= {name: TensorInfo(whole.shape, _kind(whole)) for name, whole in cut.items()}
    read = partial(_read_tensor, unpack, named, cut, layout, config.blocks[0].mixer.head_dim)
    return Checkpoint(path, config, tensors, STORED_KINDS, read, metadata, READERS)


def _kind(whole: CutTensor) -> str:
    """How the parts are stored: a kind that cannot be read, if any is."""
    kinds = [part.tensor.kind.name for part in whole.parts]
    return next((kind for kind in kinds if kind not in STORED_KINDS), kinds[0])


def _as_row(tensor: StoredTensor) -> StoredTensor:
    """A vector as a matrix of one row; a matrix as it is."""
    return tensor._replace(shape=(1, *tensor.shape)) if len(tensor.shape) == 1 else tensor


def _split_joined(
    stored: Mapping[str, StoredTensor], config: DecoderConfig, layout: GGUFLayout
) -> Iterator[tuple[str, StoredTensor]]:
    """Each tensor with its name, those by themselves that are joined in one.

    Raises:
        CheckpointError: a joined tensor has not the rows of its parts, or cannot be cut between them.
    """
    joined = {**JOINED, **layout.joined}
    specs: Mapping[str, ParamSpec] = {}
    for name, tensor in stored.items():
        parts = parts_of(name, joined)
        if parts == (name,):
            yield name, tensor
            continue
        specs = specs or param_specs(config)
        ours = [hugging_face_name(part, layout) for part in parts]
        if not specs.keys() >= {*ours}:
            yield name, tensor  # of no layer, or of a module without a bias
            continue
        rows = [specs[part].shape[0] for part in ours]
        row_bytes, rest = divmod(tensor.n_bytes, max(tensor.shape[0], 1))
        if tensor.shape[0] != sum(rows) or rest:
            words = ", ".join(part.rpartition(".")[0].rpartition(".")[2] for part in parts)
            raise CheckpointError(
                f"{name} must have the rows of {words}, {' + '.join(map(str, rows))}, one by one; it has "
                f"the shape {tensor.shape} in {tensor.kind.name}; convert the model again"
            )
        start = tensor.offset
        for part, n in zip(parts, rows, strict=True):
            yield (
                part,
                StoredTensor(
                    shape=(n, *tensor.shape[1:]),
                    kind=tensor.kind,
                    offset=start,
                    row_bytes=tensor.row_bytes if len(tensor.shape) > 1 else n * row_bytes,
                    n_bytes=n * row_bytes,
                ),
            )
            start += n * row_bytes


def _read_tensor(
    unpack: Unpack,
    named: Mapping[str, StoredTensor],
    cut: Mapping[str, CutTensor],
    layout: GGUFLayout,
    head_dim: int,
    name: str,
    dtype: np.dtype[Any],
) -> np.ndarray:
    if name in cut:
        return cut[name].read(unpack, dtype, name)
    if layout.norm_offset and name.endswith("norm.weight"):
        stored = unpack(named[name], np.dtype(np.float32), name)
        return to_dtype(stored - np.float32(layout.norm_offset), dtype, name)
    array = unpack(named[name], dtype, name)
    if layout.has_interleaved_rows and INTERLEAVED.fullmatch(name):
        return _half_split(array, head_dim)
    return array


def _half_split(array: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of each head from pairs side by side to half after half.   array (H D, ...) -> the same"""
    pairs = array.reshape(-1, head_dim // 2, 2, *array.shape[1:])
    return np.ascontiguousarray(np.swapaxes(pairs, 1, 2)).reshape(array.shape)


def _unpack(
    path: Path, stamp: Stamp, tensor: StoredTensor, dtype: np.dtype[Any], name: str
) -> np.ndarray:
    """One tensor, some rows at a time."""
    array = np.empty(tensor.shape, dtype)
    if array.size == 0:
        return array
    rows = array.reshape(-1, tensor.shape[-1])
    step = max(1, ELEMENTS_AT_ONCE // tensor.shape[-1])
    try:
        with reopen(path, stamp, tensor.offset) as file:
            if tensor.kind in PLAIN_DTYPES and PLAIN_DTYPES[tensor.kind] == dtype:
                read_into(file, array)
                return array
            for start in range(0, len(rows), step):
                part = rows[start : start + step]
                packed = np.empty((len(part), tensor.row_bytes), np.uint8)
                read_into(file, packed)
                part[:] = to_dtype(_widen(packed, tensor.kind), dtype, name)
    except OSError as cause:
        raise CheckpointError(
            f"tensor {name} must be readable from {path}; got: {cause}"
        ) from cause
    return array


def _widen(packed: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    """Packed rows (R, row bytes) as floats (R, columns): as they are where the kind is plain, else in float32."""
    if kind in PLAIN_DTYPES:
        return packed.view(PLAIN_DTYPES[kind])
    with np.errstate(over="ignore", invalid="ignore"):  # a scale may be infinite in a damaged file
        flat = dequantize(packed.reshape(1, -1), kind)  # as one row: it makes a call per 16 rows
    return flat.reshape(len(packed), -1)
