"""Directories whose matrices are quantised to MXFP4: read as the floats that they decode to.

    NAME_blocks   U8 (..., R, G, 16)    32 values of 4 bits (E2M1), two in a byte, the low half first
    NAME_scales   U8 (..., R, G)        the block's power of 2 (E8M0), 127 more than its exponent

    NAME          (..., 32 G, R)        value times power, transposed

Sources: OCP Microscaling Formats (MX) Specification 1.0; transformers' integrations/mxfp4.py.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from xplm.checkpoint.checkpoint import Checkpoint, TensorInfo, to_dtype
from xplm.errors import CheckpointError, visible

KIND = "MXFP4"
BLOCK_BYTES = 16
NAN = 255  # the scale that is no number
BLOCKS, SCALES = "_blocks", "_scales"

_POSITIVE = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
VALUES = np.array([*_POSITIVE, *(-value for value in _POSITIVE)], np.float32)
PAIRS = np.stack([np.tile(VALUES, 16), np.repeat(VALUES, 16)], axis=-1)
"""(256, 2) float32, the two values of a byte."""
POWERS = np.ldexp(np.float32(1.0), np.arange(NAN, dtype=np.int32) - 127)
"""(255,) float32, by scale."""

ReadBytes = Callable[[str], np.ndarray]
"""A tensor's name -> the bytes of a tensor of the kind U8, in its shape."""


def dequantise(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Values times powers.   blocks (..., G, 16) uint8; scales (..., G) uint8 below 255  ->  (..., 32 G) float32"""
    with np.errstate(over="ignore"):  # 6 times the largest power is infinite
        values = PAIRS[blocks].reshape(*scales.shape, 2 * BLOCK_BYTES) * POWERS[scales][..., None]
    return values.reshape(*scales.shape[:-1], -1)


def join_blocks(checkpoint: Checkpoint, read_bytes: ReadBytes) -> Checkpoint:
    """A checkpoint with one tensor of the kind MXFP4 for each pair of blocks and scales.

    Args:
        checkpoint: a directory as it is.
        read_bytes: reads blocks or scales.

    Raises:
        CheckpointError: a pair has other shapes or kinds, or a file holds its tensor beside it.
    """
    tensors = dict(checkpoint.tensors)
    quantised: dict[str, TensorInfo] = {}
    for blocks in checkpoint.tensors:
        name = blocks.removesuffix(BLOCKS)
        if name == blocks or name + SCALES not in checkpoint.tensors:
            continue
        if name in checkpoint.tensors:
            raise CheckpointError(
                f"a tensor must be stored once; {checkpoint.path} holds {visible(name)} and {visible(blocks)}"
            )
        quantised[name] = _joined(checkpoint, name)
        del tensors[blocks], tensors[name + SCALES]

    def read(name: str, dtype: np.dtype[Any]) -> np.ndarray:
        if name not in quantised:
            return checkpoint.read(name, dtype)
        blocks, scales = read_bytes(name + BLOCKS), read_bytes(name + SCALES)
        if np.any(scales == NAN):
            raise CheckpointError(
                f"scales of MXFP4 are numbers, bytes below {NAN}; {visible(name + SCALES)} of {checkpoint.path} "
                "holds NaN; download it again"
            )
        whole = np.empty(quantised[name].shape, dtype)
        for i in np.ndindex(whole.shape[:-2]):  # a matrix at a time: each is in float32 before
            whole[i] = to_dtype(dequantise(blocks[i], scales[i]), dtype, name).T
        return whole

    kinds = (*checkpoint.kinds, KIND)
    return replace(checkpoint, tensors=tensors | quantised, kinds=kinds, read=read)


def _joined(checkpoint: Checkpoint, name: str) -> TensorInfo:
    blocks, scales = (checkpoint.tensors[name + end] for end in (BLOCKS, SCALES))
    is_pair = blocks.shape == (*scales.shape, BLOCK_BYTES) and len(scales.shape) > 1
    if not is_pair or {blocks.kind, scales.kind} != {"U8"}:
        raise CheckpointError(
            f"blocks of MXFP4 must be bytes (..., R, G, {BLOCK_BYTES}) with scales (..., R, G); "
            f"{visible(name)} of {checkpoint.path} has {blocks.kind} {blocks.shape} with "
            f"{scales.kind} {scales.shape}; download it again"
        )
    *before, R, G = scales.shape
    return TensorInfo((*before, 2 * BLOCK_BYTES * G, R), KIND)
