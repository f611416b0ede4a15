"""A model on disk as one value: its configuration, what tensors it holds, and a way to read one of them.

A Hugging Face directory and a GGUF file both open as this value, so that loading and converting know neither.
Opening reads headers only. A tensor is read when it is asked for, into memory of its own, and no mapping of a file
outlives that: what a load keeps resident is the parameters, and for a moment a few tensors more.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from xplm.config import DecoderConfig
from xplm.errors import CheckpointError

FLOAT_KINDS = ("F64", "F32", "F16", "BF16")
"""Kinds whose elements are floating-point numbers, each by itself."""


class TensorInfo(NamedTuple):
    """What a file's header says about one tensor."""

    shape: tuple[int, ...]
    kind: str  # how it is stored: "F32", "BF16", "Q4_1", ...


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk."""

    path: Path  # the directory or file
    config: DecoderConfig
    tensors: Mapping[str, TensorInfo]  # by Hugging Face name
    kinds: tuple[str, ...]  # ways of storing that `read` can read
    read: Callable[[str, np.dtype[Any]], np.ndarray]  # (name, dtype) -> the tensor, caller's own
    gguf_metadata: Mapping[str, Any] | None = field(default=None, repr=False)  # None: a directory
    readers: int = 1  # tensors to read at a time; more, where reading is arithmetic

    @property
    def matrix_kinds(self) -> list[str]:
        """How matrices are stored, the kind that most elements have first."""
        elements: Counter[str] = Counter()
        for tensor in self.tensors.values():
            if len(tensor.shape) > 1:
                elements[tensor.kind] += math.prod(tensor.shape)
        return [kind for kind, _ in elements.most_common()]

    @property
    def stored_as(self) -> str:
        """These kinds in words: "BF16", or "Q4_1, Q8_0"."""
        return ", ".join(self.matrix_kinds)

    @property
    def is_quantised(self) -> bool:
        """Whether a matrix is stored as anything but floating-point numbers."""
        return any(kind not in FLOAT_KINDS for kind in self.matrix_kinds)


def to_dtype(array: np.ndarray, dtype: np.dtype[Any], name: str) -> np.ndarray:
    """Cast one tensor, or a part of it.

    Args:
        array: what was stored.
        dtype: what is wanted.
        name: the tensor's name, for the message.

    Returns:
        The array in `dtype`; `array` itself where it has that dtype.

    Raises:
        CheckpointError: a finite value became infinite, as one above 65504 does in float16. From float32 to
            bfloat16 it is not looked for: their ranges are equal up to rounding.
    """
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        converted = array.astype(dtype)
    is_narrower = dtype == np.float16 or array.dtype == np.float64
    if is_narrower and np.isinf(converted).sum() > np.isinf(array).sum():
        raise CheckpointError(
            f"tensor {name} must stay finite in {dtype.name}, whose largest value is "
            f"{float(ml_dtypes.finfo(dtype).max):.6g}; it holds {np.abs(array).max():.3g}; "
            f"use {'bf16 or fp32' if dtype == np.float16 else 'fp64'} instead"
        )
    return converted
