"""A and B of one matrix, or of a stack of them, in an adapter's file.

Where a file stores several matrices as one, an adapter there is one too:

    joined        A = [Aq; Ak; Av] (3R, C),  B = diag(Bq, Bk, Bv) (N, 3R)      so that B A = [Bq Aq; Bk Ak; Bv Av]
    taken apart   Aq = Ak = Av = A,  [Bq; Bk; Bv] = B

Rows of B are in the order of the matrix's.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from xplm.checkpoint.adapter_config import AdapterConfig
from xplm.checkpoint.layouts import join, split
from xplm.checkpoint.safetensors_file import SafetensorsFile
from xplm.errors import CheckpointError

PREFIX = "base_model.model."
A, B = ".lora_A.weight", ".lora_B.weight"

Halves: TypeAlias = tuple[np.ndarray, np.ndarray]
"""A (R, C) and B (N, R) of one matrix (N, C), or A (E, R, C) and B (E, N, R) of a stack of E."""


def read_halves(
    file: SafetensorsFile,
    facts: AdapterConfig,
    module: str,
    names: tuple[str, str],
    shape: tuple[int, int],
) -> Halves:
    """A (R, C) and B (N, R) of a matrix of shape (N, C), the factor in B.

    Args:
        file: of the adapter.
        facts: its configuration.
        module: the matrix's, which the configuration names, or whose weight is one of its target_parameters.
        names: of the two tensors.
        shape: (N, C).

    Raises:
        CheckpointError: one is missing or has another shape, or the adapter's configuration does not name the module.
    """
    weight = f"{module}.weight"
    is_parameter = facts.is_target_parameter(weight)
    if not (is_parameter or facts.is_target(module)):
        raise CheckpointError(
            "target_modules, exclude_modules and layers_to_transform must leave in every module that has an adapter; "
            f"{facts.path} leaves out {module}; make the two files agree"
        )
    rank, factor = facts.rank_and_factor(weight if is_parameter else module)
    check_shapes(file, names, ((rank, shape[1]), (shape[0], rank)))
    return scaled_halves(file, names, factor)


def scaled_halves(file: SafetensorsFile, names: tuple[str, str], factor: float) -> Halves:
    """Both tensors as the file has them, float32, the second times the factor."""
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows shows in the logits
        a, b = (file.read(name).astype(np.float32) for name in names)
        return a, b * np.float32(factor)


def join_halves(parts: Sequence[Halves], groups: int) -> Halves:
    """The adapter of matrices that are stored as one."""
    a = np.concatenate([part for part, _ in parts], axis=-2)
    rank, before, wide = a.shape[-2], 0, []
    for _, b in parts:
        own = b.shape[-1]
        stacked = [(0, 0)] * (b.ndim - 1)
        wide.append(np.pad(b, [*stacked, (before, rank - before - own)]))
        before += own
    return a, join(wide, groups, a.ndim - 2)


def split_halves(halves: Halves, heights: Sequence[int], groups: int) -> list[Halves]:
    """The adapters of the matrices that one stored matrix holds."""
    a, b = halves
    return [(a, part) for part in split(b, heights, groups, b.ndim - 2)]


def check_shapes(
    file: SafetensorsFile, names: tuple[str, ...], wanted: tuple[tuple[int, ...], ...]
) -> None:
    """Refuse tensors that do not fit their matrix.

    Raises:
        CheckpointError: one is missing, or has another shape.
    """
    found = [file.tensors[name].shape if name in file.tensors else None for name in names]
    for name, shape, right in zip(names, found, wanted, strict=True):
        if shape != right:
            raise CheckpointError(
                f"{name} must have shape {right}; {file.path} has {shape}; give the model that it was trained on"
            )
