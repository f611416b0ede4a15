"""A file's forward and backward run on the cases of an op, in the layout, form and order in which it is written."""

from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import cached_property
from itertools import permutations
from os import devnull
from typing import Any, NamedTuple

import numpy as np

from xplm.errors import RequestError
from xplm.numerics.gradient_check import numerical_gradient
from xplm.numerics.grading.cases import assumed, grading_cases
from xplm.numerics.grading.layouts import OWN, Layout, layouts
from xplm.numerics.grading.raised import SubmissionError
from xplm.numerics.grading.submission import Submission
from xplm.numerics.mistakes import CHAINS
from xplm.numerics.mistakes.chain import OWN_FORM, Form, flip
from xplm.numerics.op_cases import OpCase

Twist = Callable[[tuple[Any, ...], Sequence[np.ndarray]], tuple[Any, ...]]
"""Other arguments for backward, from those that it is given and the arrays that forward was given."""


LAST_ARRAY = {"attention": (3, ("first",)), "softmax": (1, ("visible", "mask", "keep", "valid"))}
"""Ops whose last array may be missing: how many come before it, and the words in its name: a parameter without them is
another array.
"""


class Setup(NamedTuple):
    """How they wrote the op."""

    form: Form = OWN_FORM
    layout: Layout = OWN
    order: tuple[int, ...] | None = None  # of the op's arrays, as their forward takes them


class Attempt:
    """A file, and the op that it is meant to be."""

    def __init__(self, submission: Submission, op: str) -> None:
        """Join the two; `op` is one of CHAINS."""
        self.submission = submission
        self.op = op
        self.chain = CHAINS[op]
        self._cases = grading_cases(op)
        self._options = {name for case in self._cases for name in case.options}

    def names(self, order: tuple[int, ...] | None = None) -> dict[str, str]:
        """What their forward calls each argument."""
        theirs, _ = self.submission.array_names(self._options)
        taken = self.chain.arguments
        if order is not None:
            taken = tuple(taken[i] for i in order)
        own = {arg: arg for arg in self.chain.arguments}
        return own | dict(zip(taken, theirs, strict=False))

    @cached_property
    def cases(self) -> list[OpCase]:
        """The op's cases that their forward has the parameters for.

        Raises:
            RequestError: there is none.
        """
        theirs, required = self.submission.array_names(self._options)
        taken, own = self._without_own(theirs)
        fit = [
            case
            for case in self._cases
            if required <= len(_given(case)) <= len(taken) and self._takes_options(case)
        ]
        if not fit:
            by_name = f", and by name {', '.join(sorted(self._options))}" * bool(self._options)
            raise RequestError(
                f"forward of {self.op} takes the arrays {', '.join(self.chain.arguments)}{by_name}; "
                f"got forward({', '.join(theirs)}); "
                + (f"give {own} a default: {own}=None" if own else "name and order them so")
            )
        return fit

    def _without_own(self, theirs: list[str]) -> tuple[list[str], str]:
        """Their arrays without one that is not the op's, such as attention's own mask, and the name of that."""
        if self.op not in LAST_ARRAY:
            return theirs, ""
        n_others, words = LAST_ARRAY[self.op]
        own = next(
            (n for n in theirs[n_others:] if not any(word in n.lower() for word in words)), ""
        )
        return (theirs[: theirs.index(own)], own) if own else (theirs, "")

    def missing_options(self) -> list[str]:
        """A note of the options that other cases have and their forward does not take."""
        untried = [case for case in self._cases if not any(case is taken for taken in self.cases)]
        names = sorted({name for case in untried for name in self._untaken(case)})
        if not names:
            return []
        listed = ", ".join(names[:-1]) + " and " * (len(names) > 1) + names[-1]
        return [f"cases that need {listed}: forward has no parameter of that name"]

    def _takes_options(self, case: OpCase) -> bool:
        """Whether each option of a case is a parameter of theirs, or is what goes without saying."""
        return not self._untaken(case)

    def _untaken(self, case: OpCase) -> list[str]:
        unsaid = assumed(self._by_name(case))
        return [
            option
            for option, value in case.options.items()
            if not self.submission.takes(option)
            and not (option in unsaid and unsaid[option] == value)
        ]

    def returns_a_number(self) -> bool:
        """True where their forward makes one number of the first case, in some order of its arrays."""
        case = self.cases[0]
        fitting = [one for one in layouts(self.op, self.chain) if one.fits(self.chain, case)]
        for order in permutations(range(len(_given(case)))):
            for layout in fitting:
                try:
                    return self.forward(case, Setup(layout=layout, order=order))[0].ndim == 0
                except SubmissionError:
                    continue
        return False

    def values(self, case: OpCase, form: Form) -> dict[str, Any]:
        """Arguments and options of the op, by name."""
        return {**self._by_name(case), **case.options, **form.changes}

    def forward(self, case: OpCase, setup: Setup) -> tuple[np.ndarray, tuple[Any, ...]]:
        """Their y in its own dtype, and what they saved."""
        y, saved, _ = self._run_forward(case, setup)
        return y, saved

    def backward(
        self, case: OpCase, setup: Setup, dy: np.ndarray, twist: Twist | None = None
    ) -> dict[str, np.ndarray | None]:
        """Their gradients by the op's argument names, as they store them.

        Args:
            case: the op's arrays and options.
            setup: how they wrote it.
            dy: the gradient of their y.
            twist: what to call backward with in place of what it should take.
        """
        _, saved, arrays = self._run_forward(case, setup)
        before = [array.tobytes() for array in arrays]
        own_dy = dy.copy()
        given = self.submission.backward_arguments(own_dy, saved, arrays, case.options)
        if twist is not None:
            given = twist(given, arrays)
        taken = self._taken(len(arrays), setup.order)
        positions = [i for i, arg in enumerate(taken) if arg in self.chain.gradients]
        found = self.submission.run_backward(given, case.options, len(arrays), positions)
        if not np.array_equal(own_dy, dy):
            raise SubmissionError(
                "backward writes into its argument dy, which others read too: copy it first"
            )
        self._check_unchanged("backward", taken, arrays, before, setup.order)
        return {
            arg: gradient
            for arg, gradient in zip(taken, found, strict=True)
            if arg in self.chain.gradients
        }

    def numerical(self, case: OpCase, setup: Setup, dy: np.ndarray) -> dict[str, np.ndarray]:
        """Central differences of sum(y * dy) by argument, as they store them."""
        own = OpCase(case.label, tuple(_copied(array) for array in case.args), case.options)
        arrays = self._by_name(own)

        def weighted_sum() -> float:
            return float(np.sum(self.forward(own, setup)[0] * dy))

        with open(devnull, "w") as nowhere, redirect_stdout(nowhere):  # it was printed once
            return {
                arg: setup.layout.theirs(self.chain, arg, numerical_gradient(weighted_sum, array))
                for arg in self.chain.gradients
                if (array := arrays[arg]) is not None
            }

    def _run_forward(
        self, case: OpCase, setup: Setup
    ) -> tuple[np.ndarray, tuple[Any, ...], list[np.ndarray]]:
        """Their y, what they saved, and the arrays that they were given."""
        arguments = dict(zip(self.chain.arguments, _given(case), strict=False))
        given = [
            setup.layout.theirs(self.chain, arg, array, arguments).copy()
            for arg, array in arguments.items()
        ]
        arrays = given if setup.order is None else [given[i] for i in setup.order]
        before = [array.tobytes() for array in arrays]
        y, saved = self.submission.run_forward(arrays, case.options)
        taken = self._taken(len(arrays), setup.order)
        self._check_unchanged("forward", taken, arrays, before, setup.order)
        return y, saved, arrays

    def _taken(self, n: int, order: tuple[int, ...] | None) -> list[str]:
        """The op's arguments in the order in which their forward takes them."""
        return [self.chain.arguments[i] for i in (order or range(n))]

    def _by_name(self, case: OpCase) -> dict[str, np.ndarray | None]:
        given = dict(zip(self.chain.arguments, case.args, strict=False))
        return {arg: given.get(arg) for arg in self.chain.arguments}

    def _check_unchanged(
        self,
        function: str,
        taken: Sequence[str],
        arrays: Sequence[np.ndarray],
        before: Sequence[bytes],
        order: tuple[int, ...] | None,
    ) -> None:
        for arg, array, as_it_was in zip(taken, arrays, before, strict=True):
            if array.tobytes() != as_it_was:
                raise SubmissionError(
                    f"{function} writes into its argument {self.names(order)[arg]}: copy it first"
                )


def turned(values: Any, array: np.ndarray) -> Any:
    """The same values, nested in tuples, lists and dicts, with an array in them transposed."""
    if values is array:
        return flip(array)
    if isinstance(values, tuple | list):
        return type(values)([turned(value, array) for value in values])
    if isinstance(values, dict):
        return {key: turned(value, array) for key, value in values.items()}
    return values


def _given(case: OpCase) -> list[np.ndarray]:
    return [array for array in case.args if array is not None]


def _copied(array: np.ndarray | None) -> np.ndarray | None:
    return None if array is None else array.copy()
