"""One case of an op, run through a file's forward and backward, and its wrong gradients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from xplm.numerics.gradient_check import (
    OP_LIMIT,
    relative_error,
    relative_errors,
    smallest_size,
)
from xplm.numerics.grading.accuracy import MATCH, NARROW, gradient_limit
from xplm.numerics.grading.layouts import OWN, Layout
from xplm.numerics.mistakes.chain import Chain, Formula, Values, run_backward


@dataclass(frozen=True)
class Trial:
    """The gradients found, next to the right ones, both as the file stores them."""

    label: str
    values: Values  # the op's own arguments, options and forward steps
    dy: np.ndarray  # of the op's own y
    found: dict[str, np.ndarray | None]  # by the op's argument names, float64
    expected: dict[str, np.ndarray]
    layout: Layout = OWN
    narrow: Mapping[str, str] = field(default_factory=dict)  # dtypes narrower than float64
    forward_error: float = 0.0  # the relative difference of y from the op's

    @cached_property
    def smallest(self) -> float:
        """The size below which one of the case's gradients counts as zero."""
        return smallest_size(self.expected.values())

    def outcome(self, chain: Chain, steps: Mapping[str, Formula] = {}) -> dict[str, np.ndarray]:
        """The op's gradients with some steps changed, as the file stores them."""
        return self.stored(chain, run_backward(chain, self.values, self.dy, steps))

    def stored(self, chain: Chain, gradients: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The op's gradients, as the file stores them."""
        return {
            arg: self.layout.theirs(chain, arg, np.asarray(gradient))
            for arg, gradient in gradients.items()
        }

    def is_right(self, arg: str) -> bool:
        """True where a gradient is right, in the dtype that the file computes in."""
        limit = gradient_limit(self.narrow.get(arg, ""), self.forward_error)
        return self.errors()[arg] <= limit

    def errors(self) -> dict[str, float]:
        """The relative error of each gradient; inf where it is missing or misshapen."""
        found = {
            arg: np.empty((0, 0)) if (array := self.found.get(arg)) is None else array
            for arg in self.expected
        }
        return relative_errors(found, self.expected)

    def has_shape(self, arg: str) -> bool:
        """True where a gradient is there, in its array's shape."""
        found = self.found.get(arg)
        return found is not None and found.shape == self.expected[arg].shape

    def tolerance(self, arg: str) -> float:
        """Two gradients within this, relative, are the same one."""
        return max(NARROW.get(self.narrow.get(arg, ""), MATCH), self.forward_error)

    def is_like(self, arg: str, array: np.ndarray) -> bool:
        """True where the gradient found is this one."""
        return is_same(self.found.get(arg), array, self.smallest, self.tolerance(arg))


def is_same(
    found: np.ndarray | None,
    expected: np.ndarray,
    smallest: float,
    tolerance: float = MATCH,
) -> bool:
    """True where two gradients are the same; what is below `smallest`, as their case has it, counts as zero."""
    if found is None or found.shape != expected.shape:
        return False
    return relative_error(found, expected, max(smallest, smallest_size([expected]))) <= tolerance


def wrong_gradients(trials: Sequence[Trial]) -> list[str]:
    """Arguments whose gradient is wrong in one of the cases, in the op's order."""
    args = dict.fromkeys(arg for trial in trials for arg in trial.expected)
    return [arg for arg in args if any(not t.is_right(arg) for t in trials if arg in t.expected)]


def slight_gradients(trials: Sequence[Trial]) -> dict[str, str]:
    """Gradients that are not exact, right or not, with their dtype: "" for one that float64 hides."""
    slight: dict[str, str] = {}
    for trial in trials:
        for arg, error in trial.errors().items():
            if arg in trial.narrow:
                slight[arg] = trial.narrow[arg]
            elif error > OP_LIMIT:
                slight.setdefault(arg, "")
    return slight
