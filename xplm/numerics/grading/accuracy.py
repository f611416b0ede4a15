"""How closely a file computes: in float64, or in a narrower dtype, which is no mistake of its own.

A check in float64 tells a wrong formula from rounding because rounding is a thousand million times smaller. Where a
file computes in float32 the two are still far apart, so its numbers are compared with the op's own gradient (central
differences would magnify the rounding), and the file is told which dtype it was.
"""

from typing import Any

import numpy as np

FORWARD_LIMIT = 1e-9
"""A forward within this, relative, is the op: above the rounding of float64 sums in any order."""

MATCH = 1e-6
"""Two gradients within this, relative, are the same one: far above rounding, far below any mistake."""

NARROW = {"float32": 2e-4, "float16": 0.05, "bfloat16": 0.2}
"""What rounding may make of a number of these dtypes, relative: about a thousand times eps, for sums cancel."""


def narrow_dtype(array: Any) -> str:
    """The dtype of what a file returned, where it is one of NARROW, or ""."""
    name = str(getattr(array, "dtype", ""))
    return name if name in NARROW else ""


def relative_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference over the largest number, or over 1 where all are smaller; inf for another shape or NaN."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    size = max(1.0, float(np.abs(expected).max(initial=0.0)))
    return float(np.abs(found - expected).max(initial=0.0)) / size


def forward_limit(narrow: str) -> float:
    """The most by which a forward that is the op may differ from it."""
    return NARROW.get(narrow, MATCH)


def gradient_limit(narrow: str, forward_error: float) -> float:
    """The most by which a right gradient may be off.

    Args:
        narrow: the dtype of the gradient or of y, if it is one of NARROW.
        forward_error: the relative difference of the forward from the op.
    """
    if narrow:
        return NARROW[narrow]
    return MATCH if forward_error <= FORWARD_LIMIT else 10 * MATCH
