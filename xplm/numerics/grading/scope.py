"""Numbers of axes that a file's backward, right on others, is not made for."""

from collections.abc import Sequence

from xplm.numerics.grading.attempt import Attempt
from xplm.numerics.grading.cases import fewest_axes, n_axes
from xplm.numerics.grading.malformed import malformed
from xplm.numerics.grading.trial import Trial, wrong_gradients
from xplm.numerics.grading.trying import Tried


def narrowed(attempt: Attempt, tried: Tried) -> tuple[Tried, list[str]]:
    """The cases that the backward is made for, and a note on the rest.

    A backward for x of two axes that is right on them is right: textbooks have two. The cases with more axes are left
    out where it raises on all of them and on none of the rest, or returns other shapes on some and is right on all of
    the rest; wrong numbers of the right shape are a mistake.
    """
    trials = {trial.label: trial for trial in tried.trials}
    crashes = {case.label: error.brief for case, error in tried.crashes}
    cases = [case for case in attempt.cases if case.label in trials or case.label in crashes]
    if not attempt.chain.positions or not cases:
        return tried, []
    rest = fewest_axes(cases)
    more = [case for case in cases if n_axes(case) > n_axes(rest[0])]
    fits = [trials[case.label] for case in rest if case.label in trials]
    raises_on_all = all(case.label in crashes for case in more)
    if not more or len(fits) < len(rest) or (wrong_gradients(fits) and not raises_on_all):
        return tried, []
    faults = [crashes.get(case.label) or _shape_fault(attempt, trials[case.label]) for case in more]
    if not all(faults):
        return tried, []
    name = attempt.names()[next(iter(attempt.chain.positions))]
    note = f"{name} of more than {n_axes(rest[0])} axes: {faults[0]}"
    return Tried(fits, []), [note]


def _shape_fault(attempt: Attempt, trial: Trial) -> str:
    wrong: Sequence[str] = [arg for arg in trial.expected if not trial.has_shape(arg)]
    return malformed(wrong[0], [trial], attempt.names()) if wrong else ""
