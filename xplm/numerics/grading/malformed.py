"""Gradients that cannot be compared at all: missing, of another shape, or not finite."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from xplm.numerics.grading.accuracy import MATCH
from xplm.numerics.grading.trial import Trial, is_same


def malformed(arg: str, trials: Sequence[Trial], names: Mapping[str, str]) -> str:
    """The reason that a gradient cannot be compared, as a sentence, or ""."""
    name = f"d{names[arg]}"
    for t in trials:
        if arg not in t.expected:
            continue
        found, expected = t.found.get(arg), t.expected[arg]
        if found is None:
            return f"{name} is missing: backward returns nothing for it"
        if found.shape != expected.shape:
            others = [
                other for other in t.expected if is_same(found, t.expected[other], t.smallest)
            ]
            why = (
                f": it is d{names[others[0]]}; are they returned in the wrong order?"
                if others
                else _reshaped(t, found, expected)
            )
            return f"{name} has shape {found.shape}; {names[arg]} has {expected.shape}{why}"
        if not np.isfinite(found).all():
            return f"{name} holds NaN or infinity (case: {t.label})"
    return ""


def _reshaped(t: Trial, found: np.ndarray, expected: np.ndarray) -> str:
    """Why a shape might be wrong, as the end of a sentence."""

    def equals(array: np.ndarray) -> bool:
        return array.shape == expected.shape and bool(
            np.allclose(array, expected, rtol=MATCH, atol=MATCH * float(np.abs(expected).max()))
        )

    if found.ndim >= 2 and equals(np.swapaxes(found, -1, -2)):
        return ": it is transposed; a gradient is stored as its array is"
    if found.size == expected.size and equals(found.reshape(expected.shape)):
        if found.squeeze().shape == expected.squeeze().shape:
            return ": its numbers are right, with axes of length 1 too many or too few (keepdims=True?)"
        return ": its numbers are right, reshape it"
    leading = tuple(range(found.ndim - expected.ndim))
    if leading and equals(found.sum(leading)):
        return ": sum it over the leading axes"
    if expected.ndim == 1 and found.ndim >= 1 and found.shape == t.dy.shape[:-1]:
        return ": wrong axis, it is summed over the last axis; sum it over all others"
    if expected.ndim == 1 and found.ndim > 1 and equals(found.reshape(-1, found.shape[-1]).sum(0)):
        return ": sum it over all axes but the last"
    if found.ndim == expected.ndim:
        wide = tuple(
            i for i, (n, m) in enumerate(zip(found.shape, expected.shape, strict=True)) if n != m
        )
        if all(expected.shape[i] == 1 for i in wide) and equals(found.sum(wide, keepdims=True)):
            return ": sum it over the axis that was broadcast"
        if found.ndim == 4 and wide == (1,) and _sums_heads(found, expected, equals):
            return ": sum it over the query heads that share a key head"
    return ""


def _sums_heads(
    found: np.ndarray, expected: np.ndarray, equals: Callable[[np.ndarray], bool]
) -> bool:
    B, H = found.shape[:2]
    K = expected.shape[1]
    return H % K == 0 and equals(found.reshape(B, K, H // K, *found.shape[2:]).sum(2))
