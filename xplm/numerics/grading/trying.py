"""A file's backward on every case: its gradients next to central differences, and other ways to call it."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np

from xplm.numerics.grading.accuracy import FORWARD_LIMIT, narrow_dtype
from xplm.numerics.grading.attempt import Attempt, Twist, turned
from xplm.numerics.grading.judging import Judgement
from xplm.numerics.grading.raised import SubmissionError
from xplm.numerics.grading.trial import Trial, wrong_gradients
from xplm.numerics.mistakes.chain import run_backward, run_forward
from xplm.numerics.op_cases import OpCase


class Tried(NamedTuple):
    """The cases that ran, and those that raised."""

    trials: list[Trial]
    crashes: list[tuple[OpCase, SubmissionError]]  # cases in which backward raised, and what


def try_backward(attempt: Attempt, judgement: Judgement) -> Tried:
    """Their gradients and the right ones, case by case.

    Raises:
        SubmissionError: forward gives another y when it is called again.
    """
    setup = judgement.setup
    trials, crashes = [], []
    for number, case in enumerate(judgement.cases):
        y, _ = attempt.forward(case, setup)
        if not np.array_equal(y, attempt.forward(case, setup)[0], equal_nan=y.dtype.kind == "f"):
            raise SubmissionError(
                "forward gives another y when it is called again: what is random comes in as an "
                "argument"
            )
        draw = np.random.default_rng(number).standard_normal(y.shape)
        dy = np.asarray(draw if y.ndim else 1.0)
        try:
            found = attempt.backward(case, setup, dy)
        except SubmissionError as error:
            crashes.append((case, error))
            continue
        trials.append(_trial(attempt, judgement, case, dy, found))
    return Tried(trials, crashes)


def _trial(
    attempt: Attempt,
    judgement: Judgement,
    case: OpCase,
    dy: np.ndarray,
    found: dict[str, np.ndarray | None],
) -> Trial:
    chain, setup = attempt.chain, judgement.setup
    values = run_forward(chain, attempt.values(case, setup.form))
    right = np.asarray(values.y)
    own_dy = dy.reshape(right.shape) if dy.size == right.size else dy
    is_exact = not judgement.narrow and judgement.error <= FORWARD_LIMIT
    narrow = {
        arg: name
        for arg, gradient in found.items()
        if (name := narrow_dtype(gradient) or judgement.narrow)
    }
    trial = Trial(
        case.label,
        values,
        own_dy,
        {arg: None if g is None else g.astype(np.float64) for arg, g in found.items()},
        {},
        setup.layout,
        narrow,
        judgement.error,
    )
    # Differences of a forward that rounds would show its rounding.
    trial.expected.update(
        attempt.numerical(case, setup, dy)
        if is_exact or not judgement.is_the_op
        else trial.stored(chain, run_backward(chain, values, own_dy))
    )
    return trial


def called_otherwise(attempt: Attempt, judgement: Judgement, tried: Tried) -> str:
    """How backward would have to be called for every gradient to be right, as a sentence; "" where there is no way."""
    expected = {trial.label: trial for trial in tried.trials}
    for says, twist in _twists(attempt, judgement, tried):
        if _is_right(attempt, judgement, twist, expected):
            return says
    return ""


def _is_right(
    attempt: Attempt, judgement: Judgement, twist: Twist, trials: dict[str, Trial]
) -> bool:
    for number, case in enumerate(judgement.cases):
        y, _ = attempt.forward(case, judgement.setup)
        draw = np.random.default_rng(number).standard_normal(y.shape)
        dy = np.asarray(draw if y.ndim else 1.0)
        try:
            found = attempt.backward(case, judgement.setup, dy, twist)
        except SubmissionError:
            return False
        if case.label in trials:  # its differences are known
            known = trials[case.label]
            float64 = {a: None if g is None else g.astype(np.float64) for a, g in found.items()}
            trial = Trial(**{**vars(known), "found": float64})
        else:
            trial = _trial(attempt, judgement, case, dy, found)
        if wrong_gradients([trial]):
            return False
    return True


def _twists(attempt: Attempt, judgement: Judgement, tried: Tried) -> Iterator[tuple[str, Twist]]:
    """Other orders of backward's arguments, and matrices the other way round."""
    case = judgement.cases[0]
    y, saved = attempt.forward(case, judgement.setup)
    names = attempt.names(judgement.setup.order)
    n_arrays = sum(array is not None for array in case.args)
    arrays = [array for array in case.args if array is not None]
    given = attempt.submission.backward_arguments(
        np.zeros_like(y, np.float64), saved, arrays, case.options
    )
    theirs = [names[arg] for arg in attempt.chain.arguments[:n_arrays]]
    called = ["dy", *theirs] if len(given) == 1 + n_arrays else ["dy", "what forward saved"]
    if 2 <= len(given) <= 4:
        for order in list(permutations(range(len(given))))[1:]:
            says = (
                f"{attempt.submission.backward_signature()} takes its arguments in another order: "
                "it is right when dy comes "
                + ("last" if order[-1] == 0 else f"at place {order.index(0) + 1}")
                + f", but it is called with dy first, backward({', '.join(called)})"
                if order[0] != 0
                else f"{attempt.submission.backward_signature()} takes its arguments in another "
                f"order than it is called with, backward({', '.join(called)})"
            )
            yield says, partial(_reordered, order)
    for matrices in [attempt.chain.matrices, *((arg,) for arg in attempt.chain.matrices)]:
        positions = [attempt.chain.arguments.index(arg) for arg in matrices]
        positions = [i for i in positions if i < n_arrays]
        if positions:
            listed = " and ".join(names[attempt.chain.arguments[i]] for i in positions)
            stored = (
                "y = x @ W, stored (inputs, outputs), has dx = dy @ W^T"
                if judgement.setup.layout.transposed
                else "y = x @ W^T, stored (outputs, inputs), has dx = dy @ W"
            )
            says = f"backward takes {listed} the other way round than forward: {stored}"
            yield says, partial(_turned, positions)


def _reordered(
    order: Sequence[int], given: tuple[Any, ...], arrays: Sequence[np.ndarray]
) -> tuple[Any, ...]:
    return tuple(given[i] for i in order) if len(order) == len(given) else given


def _turned(
    positions: Sequence[int], given: tuple[Any, ...], arrays: Sequence[np.ndarray]
) -> tuple[Any, ...]:
    for i in positions:
        if i < len(arrays):
            given = tuple(turned(value, arrays[i]) for value in given)
    return given
