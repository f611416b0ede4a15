"""A file's forward against the op's definition, its other forms and layouts, and its known mistakes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations

import numpy as np

from xplm.numerics.grading.accuracy import (
    FORWARD_LIMIT,
    forward_limit,
    narrow_dtype,
    relative_difference,
)
from xplm.numerics.grading.attempt import Attempt, Setup
from xplm.numerics.grading.cases import beyond_textbooks, fewest_axes, n_axes
from xplm.numerics.grading.distortions import wrong_axes
from xplm.numerics.grading.layouts import Layout, layouts
from xplm.numerics.grading.raised import SubmissionError
from xplm.numerics.mistakes.chain import OWN_FORM, Form, Mistake, run_forward
from xplm.numerics.op_cases import OpCase


@dataclass(frozen=True)
class Judgement:
    """The comparison of a forward with the op's definition."""

    says: str
    is_the_op: bool  # it computes the op, perhaps with its arrays in another order
    setup: Setup
    cases: list[OpCase]  # those that it is made for
    error: float = 0.0  # the relative difference from the op
    narrow: str = ""  # the dtype of y, where it is narrower than float64
    fault: str = ""  # what is wrong with it, as a sentence; "": nothing
    notes: list[str] = field(default_factory=list)  # which cases it is not made for, and why


@dataclass(frozen=True)
class _Run:
    """Their y in every case that a layout fits."""

    layout: Layout
    cases: list[OpCase]
    ys: list[np.ndarray]  # float64
    narrow: str
    notes: list[str]


def judge_forward(attempt: Attempt) -> Judgement:
    """Compare their forward with the op.

    Raises:
        SubmissionError: it does not run.
    """
    chain = attempt.chain
    runs, failure = _runs(attempt)
    for exact in (True, False):
        for run in runs:
            limit = FORWARD_LIMIT if exact else forward_limit(run.narrow)
            for form in (OWN_FORM, *chain.forms):
                error = _error(attempt, run, form)
                if error <= limit:
                    return _right(run, form, error)
    if right := _right_on_fewest_axes(attempt, runs):
        return right
    for exact in (True, False):
        for run in runs:
            limit = FORWARD_LIMIT if exact else forward_limit(run.narrow)
            for form, known in _mistakes(attempt):
                if _error(attempt, run, form, known) <= limit:
                    setup = Setup(form, run.layout)
                    return Judgement(
                        known.says, False, setup, run.cases, 0.0, run.narrow, known.says, run.notes
                    )
    if reordered := _in_another_order(attempt):
        return reordered
    if not runs:
        assert failure is not None
        raise failure

    run = runs[0]
    says = _difference(attempt, run)
    return Judgement(
        says, False, Setup(OWN_FORM, run.layout), run.cases, 0.0, run.narrow, says, run.notes
    )


def _runs(attempt: Attempt) -> tuple[list[_Run], SubmissionError | None]:
    """Their forward in every layout in which it runs; other numbers of axes only where it does not run as it is."""
    runs: list[_Run] = []
    failure: SubmissionError | None = None
    for layout in layouts(attempt.op, attempt.chain):
        if runs and layout.axes != runs[0].layout.axes:
            break
        cases = [case for case in attempt.cases if layout.fits(attempt.chain, case)]
        if not cases:
            continue
        try:
            runs.append(_run(attempt, Setup(layout=layout), cases))
        except SubmissionError as error:
            failure = failure or error
    if failure is not None:
        runs = [
            run
            if run.layout.axes is None
            else _Run(
                run.layout,
                run.cases,
                run.ys,
                run.narrow,
                [f"other numbers of axes: {failure.brief}"],
            )
            for run in runs
        ]
    return runs, failure


def _run(attempt: Attempt, setup: Setup, cases: Sequence[OpCase]) -> _Run:
    """Their y in every case; without those that textbooks leave out, where it runs in none of them."""
    ys, kept, failed = [], [], []
    for case in cases:
        try:
            y = attempt.forward(case, setup)[0]
        except SubmissionError as error:
            failed.append((case, error))
            continue
        kept.append(case)
        ys.append(y)
    notes = []
    if failed:
        reasons = {beyond_textbooks(attempt.op, case) for case, _ in failed}
        rest = [
            (case, y)
            for case, y in zip(kept, ys, strict=True)
            if not beyond_textbooks(attempt.op, case)
        ]
        if "" in reasons or not rest:
            raise failed[0][1]
        kept, ys = [case for case, _ in rest], [y for _, y in rest]
        notes += sorted(reasons)
    narrow = next((name for y in ys if (name := narrow_dtype(y))), "")
    return _Run(setup.layout, kept, [y.astype(np.float64) for y in ys], narrow, notes)


def _error(attempt: Attempt, run: _Run, form: Form, known: Mistake | None = None) -> float:
    """The largest relative difference of a run from the op, or from the op with a mistake."""
    chain, worst = attempt.chain, 0.0
    for case, y in zip(run.cases, run.ys, strict=True):
        values = run_forward(chain, attempt.values(case, form), known.steps if known else {})
        worst = max(
            worst, relative_difference(y, run.layout.their_y(chain, np.asarray(values.y), case))
        )
        if worst == float("inf"):
            break
    return worst


def _mistakes(attempt: Attempt) -> Iterator[tuple[Form, Mistake]]:
    chain = attempt.chain
    for form in (OWN_FORM, *chain.forms):
        for known in (*chain.forward_mistakes, *wrong_axes(chain.forward)):
            yield form, known


def _right(run: _Run, form: Form, error: float) -> Judgement:
    notes = [form.says, run.layout.says]
    if run.narrow:
        notes.insert(0, f"in {run.narrow}")
    elif error > FORWARD_LIMIT:
        notes.insert(0, f"to {error:.0e}: float32 arithmetic, or a rounded constant")
    says = ", ".join(["is right", *(note for note in notes if note)])
    return Judgement(
        says, True, Setup(form, run.layout), run.cases, error, run.narrow, "", run.notes
    )


def _right_on_fewest_axes(attempt: Attempt, runs: Sequence[_Run]) -> Judgement | None:
    """The judgement of a forward that is the op where its arrays have the fewest axes, as in textbooks."""
    for run in runs if attempt.chain.positions else ():
        few = fewest_axes(run.cases)
        kept = [
            (case, y)
            for case, y in zip(run.cases, run.ys, strict=True)
            if any(case is one for one in few)
        ]
        if len(kept) == len(run.cases):
            continue
        narrower = _Run(
            run.layout, [case for case, _ in kept], [y for _, y in kept], run.narrow, []
        )
        for form in (OWN_FORM, *attempt.chain.forms):
            error = _error(attempt, narrower, form)
            if error <= forward_limit(run.narrow):
                name = attempt.names()[next(iter(attempt.chain.positions))]
                note = (
                    f"{name} of more than {n_axes(few[0])} axes: forward gives another y there; "
                    "write axis=-1 for the last axis"
                )
                right = _right(narrower, form, error)
                return replace(right, notes=[*run.notes, note])
    return None


def _in_another_order(attempt: Attempt) -> Judgement | None:
    """Their forward with its arrays in another order, if that makes it the op."""
    chain = attempt.chain
    sizes = {sum(array is not None for array in case.args) for case in attempt.cases}
    if len(sizes) != 1 or not 1 < (n := sizes.pop()) < 5:
        return None
    for order in list(permutations(range(n)))[1:]:
        for layout in layouts(attempt.op, chain):
            if layout.axes is not None:
                break
            try:
                found = _run(attempt, Setup(layout=layout, order=order), attempt.cases)
            except SubmissionError:
                continue
            for form in (OWN_FORM, *chain.forms):
                error = _error(attempt, found, form)
                if error > forward_limit(found.narrow):
                    continue
                theirs = list(attempt.names(order).items())
                taken = [chain.arguments[i] for i in order]
                says = (
                    f"takes its arrays in another order, {', '.join(taken)}; "
                    f"they come as {', '.join(chain.arguments[:n])}: "
                    f"forward({', '.join(dict(theirs)[arg] for arg in chain.arguments[:n])})"
                )
                setup = Setup(form, layout, order)
                return Judgement(
                    says, True, setup, found.cases, error, found.narrow, says, found.notes
                )
    return None


def _difference(attempt: Attempt, run: _Run) -> str:
    """The first case in which a forward that no known mistake explains is wrong."""
    chain = attempt.chain
    for case, y in zip(run.cases, run.ys, strict=True):
        one = _Run(run.layout, [case], [y], run.narrow, [])
        if _error(attempt, one, OWN_FORM) <= forward_limit(run.narrow):
            continue
        right = np.asarray(run_forward(chain, attempt.values(case, OWN_FORM)).y)
        expected = run.layout.their_y(chain, right, case)
        if y.ndim == 0 and expected.ndim == 1:
            return f"y is one number; the loss of each row belongs, shape {expected.shape}"
        if y.shape != expected.shape:
            return f'y has shape {y.shape} where {expected.shape} belongs (case "{case.label}")'
        if not np.isfinite(y).all():
            return f'y holds NaN or infinity (case "{case.label}")'
        off = np.abs(y - expected)
        place = tuple(int(i) for i in np.unravel_index(off.argmax(), y.shape))
        at = "[" + ", ".join(map(str, place)) + "]" if place else ""
        return f'y{at} is {y[place]:.6g} where {expected[place]:.6g} belongs (case "{case.label}")'
    raise AssertionError("a forward that differs differs somewhere")
