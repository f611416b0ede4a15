"""Somebody's forward and backward run on the cases of an op, in whichever layout and form of it they wrote."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from xplm.errors import RequestError
from xplm.numerics.gradient_check import numerical_gradient
from xplm.numerics.grading.cases import assumed, grading_cases
from xplm.numerics.grading.diagnosis import Trial, is_same
from xplm.numerics.grading.submission import Submission, SubmissionError
from xplm.numerics.mistakes import CHAINS
from xplm.numerics.mistakes.chain import OWN_FORM, Chain, Form, flip, run_backward, run_forward
from xplm.numerics.op_cases import OpCase

FORWARD_LIMIT = 1e-9
"""A forward within this, relative, is the op: above the rounding of float64 sums in any order."""


class Setup(NamedTuple):
    """How they wrote the op."""

    form: Form
    transposed: bool  # whether their matrices are (inputs, outputs)


class Verdict(NamedTuple):
    """How their forward compares with the op's definition."""

    says: str
    is_right: bool
    setup: Setup


class Attempt:
    """A file, and the op that it is meant to be."""

    def __init__(self, submission: Submission, op: str) -> None:
        """Join the two; `op` is one of CHAINS."""
        self.submission = submission
        self.op = op
        self.chain = CHAINS[op]
        self._cases = grading_cases(op)
        self._options = {name for case in self._cases for name in case.options}

    @cached_property
    def names(self) -> dict[str, str]:
        """What their forward calls each argument."""
        theirs, _ = self.submission.array_names(self._options)
        own = {arg: arg for arg in self.chain.arguments}
        return own | dict(zip(self.chain.arguments, theirs, strict=False))

    @cached_property
    def cases(self) -> list[OpCase]:
        """The op's cases that their forward has the parameters for.

        Raises:
            RequestError: there is none.
        """
        theirs, required = self.submission.array_names(self._options)
        fit = [
            case
            for case in self._cases
            if required <= len(_given(case)) <= len(theirs) and self._takes_options(case)
        ]
        if not fit:
            by_name = f", and by name {', '.join(sorted(self._options))}" * bool(self._options)
            raise RequestError(
                f"forward of {self.op} takes the arrays {', '.join(self.chain.arguments)}{by_name}; "
                f"got forward({', '.join(theirs)}); name and order them so"
            )
        return fit

    def _takes_options(self, case: OpCase) -> bool:
        """Whether each option of a case is a parameter of theirs, or is what goes without saying."""
        unsaid = assumed(self._by_name(case))
        return all(
            self.submission.takes(option) or (option in unsaid and unsaid[option] == value)
            for option, value in case.options.items()
        )

    def returns_a_number(self) -> bool:
        """Whether their forward makes one number of the first case."""
        try:
            y, _ = self.forward(self.cases[0], Setup(OWN_FORM, False))
        except SubmissionError:
            return False
        return y.ndim == 0

    def values(self, case: OpCase, form: Form) -> dict[str, Any]:
        """Arguments and options of the op, by name."""
        return {**self._by_name(case), **case.options, **form.changes}

    def forward(self, case: OpCase, setup: Setup) -> tuple[np.ndarray, tuple[Any, ...]]:
        """Their y and what they saved."""
        arrays = self._theirs(case, setup)
        before = [array.copy() for array in arrays]
        y, saved = self.submission.run_forward(arrays, case.options)
        self._check_unchanged("forward", arrays, before)
        return y, saved

    def backward(self, case: OpCase, setup: Setup, dy: np.ndarray) -> dict[str, np.ndarray | None]:
        """Their gradients by the op's argument names, in the op's layout."""
        arrays = self._theirs(case, setup)
        before = [array.copy() for array in arrays]
        _, saved = self.submission.run_forward(arrays, case.options)
        positions = [i for i, a in enumerate(self.chain.arguments) if a in self.chain.gradients]
        given = self.submission.run_backward(
            dy, saved, arrays, case.options, tuple(i for i in positions if i < len(arrays))
        )
        self._check_unchanged("backward", arrays, before)
        return {
            arg: flip(gradient)
            if gradient is not None and self._is_flipped(arg, setup) and gradient.ndim > 1
            else gradient
            for arg, gradient in zip(self.chain.arguments, given, strict=False)
            if arg in self.chain.gradients
        }

    def numerical(self, case: OpCase, setup: Setup, dy: np.ndarray) -> dict[str, np.ndarray]:
        """Central differences of sum(y * dy), by argument."""
        own = OpCase(case.label, tuple(_copied(array) for array in case.args), case.options)
        arrays = self._by_name(own)

        def weighted_sum() -> float:
            return float(np.sum(self.forward(own, setup)[0] * dy))

        return {
            arg: numerical_gradient(weighted_sum, array)
            for arg in self.chain.gradients
            if (array := arrays[arg]) is not None
        }

    def _by_name(self, case: OpCase) -> dict[str, np.ndarray | None]:
        given = dict(zip(self.chain.arguments, case.args, strict=False))
        return {arg: given.get(arg) for arg in self.chain.arguments}

    def _is_flipped(self, arg: str, setup: Setup) -> bool:
        return setup.transposed and arg in self.chain.matrices

    def _theirs(self, case: OpCase, setup: Setup) -> tuple[np.ndarray, ...]:
        """Copies of the arrays, in their layout."""
        return tuple(
            (flip(array) if self._is_flipped(arg, setup) else array).copy()
            for arg, array in zip(self.chain.arguments, _given(case), strict=False)
        )

    def _check_unchanged(
        self, function: str, arrays: Sequence[np.ndarray], before: Sequence[np.ndarray]
    ) -> None:
        for arg, array, copy in zip(self.chain.arguments, arrays, before, strict=False):
            if not np.array_equal(array, copy, equal_nan=array.dtype.kind == "f"):
                raise SubmissionError(
                    f"{function} writes into its argument {self.names[arg]}: copy it first"
                )


def judge_forward(attempt: Attempt) -> Verdict:
    """Compare their forward with the op's definition, its other forms, and its known mistakes.

    Raises:
        SubmissionError: it does not run.
    """
    chain, cases = attempt.chain, attempt.cases
    ran: list[tuple[bool, list[np.ndarray]]] = []
    failure: SubmissionError | None = None
    for transposed in (False, True) if chain.matrices else (False,):
        try:
            setup = Setup(OWN_FORM, transposed)
            ran.append((transposed, [attempt.forward(case, setup)[0] for case in cases]))
        except SubmissionError as error:
            failure = failure or error
    if not ran:
        assert failure is not None
        raise failure

    for transposed, ys in ran:
        for form in (OWN_FORM, *chain.forms):
            expected = [run_forward(chain, attempt.values(case, form)).y for case in cases]
            if _all_equal(ys, expected):
                notes = [form.says, "with matrices stored (inputs, outputs)" * transposed]
                says = ", ".join(["is right", *(note for note in notes if note)])
                return Verdict(says, True, Setup(form, transposed))
    for transposed, ys in ran:
        for form in (OWN_FORM, *chain.forms):
            values = [attempt.values(case, form) for case in cases]
            for known in chain.forward_mistakes:
                if _all_equal(ys, [run_forward(chain, v, known.steps).y for v in values]):
                    return Verdict(known.says, False, Setup(form, transposed))

    transposed, ys = ran[0]
    own = [run_forward(chain, attempt.values(case, OWN_FORM)).y for case in cases]
    return Verdict(_difference(cases, ys, own), False, Setup(OWN_FORM, transposed))


def try_backward(attempt: Attempt, setup: Setup) -> tuple[list[Trial], list[str]]:
    """Their gradients and the differences, case by case, and what was raised in those that failed.

    Raises:
        SubmissionError: it fails in every case.
    """
    trials, crashes = [], []
    for number, case in enumerate(attempt.cases):
        y, _ = attempt.forward(case, setup)
        if not np.array_equal(y, attempt.forward(case, setup)[0], equal_nan=True):
            raise SubmissionError(
                "forward gives another y when it is called again: what is random comes in as an "
                "argument"
            )
        draw = np.random.default_rng(number).standard_normal(y.shape)
        dy = np.asarray(draw if y.ndim else 1.0)
        try:
            found = attempt.backward(case, setup, dy)
        except SubmissionError as error:
            crashes.append(f'{error} (case "{case.label}")')
            continue
        values = run_forward(attempt.chain, attempt.values(case, setup.form))
        trials.append(Trial(case.label, values, dy, found, attempt.numerical(case, setup, dy)))
    if not trials:
        raise SubmissionError(crashes[0])
    return trials, crashes[:1]


def fits_definition(chain: Chain, trials: Sequence[Trial], arguments: Sequence[str]) -> bool:
    """Whether these gradients are those of the op itself, whatever the forward does."""
    for trial in trials:
        right = run_backward(chain, trial.values, trial.dy)
        if not all(
            is_same(trial.found[arg], right[arg], right) for arg in arguments if arg in right
        ):
            return False
    return True


def _given(case: OpCase) -> list[np.ndarray]:
    return [array for array in case.args if array is not None]


def _copied(array: np.ndarray | None) -> np.ndarray | None:
    return None if array is None else array.copy()


def _all_equal(ys: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> bool:
    return all(
        y.shape == e.shape
        and bool(
            np.all(np.abs(y - e) <= FORWARD_LIMIT * max(1.0, float(np.abs(e).max(initial=0.0))))
        )
        for y, e in zip(ys, expected, strict=True)
    )


def _difference(
    cases: Sequence[OpCase], ys: Sequence[np.ndarray], expected: Sequence[np.ndarray]
) -> str:
    """The first case in which a forward that no known mistake explains is wrong."""
    for case, y, e in zip(cases, ys, expected, strict=True):
        if y.shape != e.shape:
            return f'y has shape {y.shape} where {e.shape} belongs (case "{case.label}")'
        if not _all_equal([y], [e]):
            place = tuple(int(i) for i in np.unravel_index(np.abs(y - e).argmax(), y.shape))
            at = "[" + ", ".join(map(str, place)) + "]" if place else ""
            return f'y{at} is {y[place]:.6g} where {e[place]:.6g} belongs (case "{case.label}")'
    raise AssertionError("a forward that differs differs somewhere")
