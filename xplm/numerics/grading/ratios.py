"""What a constant factor between two gradients says: 11.3 is sqrt(128), and 128 is the width of a head."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from xplm.numerics.mistakes.chain import Values

TOLERANCE = 1e-6


class WrongCase(NamedTuple):
    """A wrong gradient in one case."""

    values: Values  # arguments, options and steps of the op in that case
    found: np.ndarray
    expected: np.ndarray
    tolerance: float = TOLERANCE  # of the gradient's numbers, relative


class Ratio(NamedTuple):
    """found = value * expected, in every case."""

    value: float  # in the first case
    meaning: str  # "sqrt(128)", or "" where no size of the op explains it
    size_of: tuple[str, int] | None = None  # array and axis whose length that is

    def __str__(self) -> str:
        """Such as "11.3 times too large = sqrt(128)"."""
        if self.value < 0:
            sign = "has the wrong sign"
            return (
                sign if abs(self.value + 1) < TOLERANCE else f"{sign} and is {_size(-self.value)}"
            )
        scale = f"{max(self.value, 1 / self.value):.3g}"
        return f"is {_size(self.value)}" + f" = {self.meaning}" * (self.meaning not in ("", scale))


def find_ratio(cases: Sequence[WrongCase]) -> Ratio | None:
    """The constant that the gradient is off by, the same for all its numbers.

    Args:
        cases: those in which it is wrong.

    Returns:
        The constant with its meaning, or None where there is no such constant.
    """
    ratios = [_ratio(case) for case in cases]
    known = [r for r in ratios if r is not None]
    if not known or len(known) < len(ratios):
        return None
    if len(known) > 1 and max(known) - min(known) < cases[0].tolerance * abs(known[0]):
        return Ratio(known[0], _plain_number(known[0], cases[0].tolerance))
    shared = [
        (key, meaning)
        for key, meaning in _meanings(cases[0].values, known[0], cases[0].tolerance)
        if all(
            key in dict(_meanings(case.values, ratio, case.tolerance))
            for case, ratio in zip(cases[1:], known[1:], strict=True)
        )
    ]
    if shared:
        ((name, axis), *_), meaning = shared[0]
        return Ratio(known[0], meaning, (name, axis) if isinstance(axis, int) else None)
    return Ratio(known[0], "") if len(known) == 1 else None


def _ratio(case: WrongCase) -> float | None:
    found, expected = case.found, case.expected
    size = float(np.sum(expected * expected))
    if found.shape != expected.shape or size == 0.0:
        return None
    ratio = float(np.sum(found * expected)) / size
    difference = np.abs(found - ratio * expected).max()
    if ratio == 0.0 or difference > case.tolerance * np.abs(ratio * expected).max():
        return None
    return ratio


def _meanings(
    values: Values, ratio: float, tolerance: float
) -> Iterator[tuple[tuple[Any, float, int], str]]:
    """Every size of the op that explains a ratio, as (a key that is the same in all cases, how to write it)."""
    scale = abs(ratio)
    for key, size in _sizes(values):
        if size == 1:
            continue
        base = f"{size:g}" if size > 1 else f"1/{size:g}"
        for power, written in ((1, base), (0.5, f"sqrt({base})"), (2, f"({base})^2")):
            for sign in (1, -1):
                if math.isclose(scale, size ** (power * sign), rel_tol=tolerance):
                    yield (key, power, sign), written


def _sizes(values: Values) -> Iterator[tuple[tuple[str, int | str], float]]:
    for name, value in vars(values).items():
        if isinstance(value, np.ndarray) and value.ndim:
            for i, n in enumerate(value.shape):  # cases may have more or fewer axes
                yield (name, i), float(n)
                yield (name, i - value.ndim), float(n)
            yield (name, "rows"), float(math.prod(value.shape[:-1]))
        elif isinstance(value, float) and value > 0:
            yield (name, "itself"), value
            if value < 1:
                yield (name, "rest"), 1 - value


def _plain_number(ratio: float, tolerance: float) -> str:
    for n in range(2, 10):
        for value, written in ((n, f"{n}"), (1 / n, f"1/{n}")):
            if math.isclose(abs(ratio), value, rel_tol=tolerance):
                return written
    return ""


def _size(ratio: float) -> str:
    if ratio >= 1:
        return f"{ratio:.3g} times too large"
    return f"{1 / ratio:.3g} times too small"
