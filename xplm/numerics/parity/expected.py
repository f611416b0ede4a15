"""What a definition of an op reads and returns."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from xplm.numerics.parity.bounds import Ball, wide_of

Args: TypeAlias = Sequence[Any]
"""The forward's arrays on the host, in its order; None for one that is left out."""

Options: TypeAlias = Mapping[str, Any]
"""Its keyword arguments, dtypes among them as NumPy's."""


class Expected(NamedTuple):
    """One output of an op."""

    ball: Ball  # before the output is rounded
    dtype: np.dtype  # that it is rounded to


def island(options: Options, x: np.ndarray) -> np.dtype:
    """The format that the policy gives to this op's island."""
    return options.get("island") or wide_of(x.dtype)


def rows(x: np.ndarray) -> np.ndarray:
    """(..., C) as (N, C)."""
    return np.reshape(x, (-1, x.shape[-1]))
