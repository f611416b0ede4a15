"""Check somebody's own forward and backward of an op, and name the likely mistake.

The forward is compared with the op's definition, the backward with central differences of their own forward, both on
cases that fit what their forward takes. Wrong gradients go to `grading.diagnosis`.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from xplm.errors import RequestError, did_you_mean
from xplm.numerics.gradient_check import OP_LIMIT, relative_errors
from xplm.numerics.grading.attempt import Attempt, fits_definition, judge_forward, try_backward
from xplm.numerics.grading.diagnosis import Finding, Trial, diagnose
from xplm.numerics.grading.submission import SubmissionError, load_submission
from xplm.numerics.mistakes import CHAINS


class Grade(NamedTuple):
    """What was found out about a file."""

    op: str
    cases: tuple[str, ...]  # labels of what it was tried on
    forward: str  # how the forward compares with the op's definition
    forward_is_right: bool
    errors: dict[
        str, float
    ]  # largest relative error by gradient, under the file's own names: "dWq"
    findings: list[Finding]  # empty: nothing is wrong

    @property
    def passed(self) -> bool:
        """Whether forward and backward are both right."""
        return not self.findings


def grade(path: Path, op: str | None = None) -> Grade:
    """Check a file that defines `forward` and `backward`.

    Args:
        path: the file; `grading.submission` says how its functions are called.
        op: the op; None: what the file's OP says, or else its name.

    Raises:
        RequestError: the file cannot be run, or the op is not known, or its forward fits no case of it.
    """
    submission = load_submission(path)
    op = op or submission.op or _op_in_name(path)
    if op not in CHAINS:
        raise RequestError(
            f'an op to grade is one of {", ".join(CHAINS)}; got "{op or path.name}"; '
            'write OP = "..." in the file, or pass --op' + did_you_mean(op or path.stem, CHAINS)
        )
    attempt = Attempt(submission, op)
    if op == "cross_entropy" and attempt.returns_a_number():
        return grade(path, "mean_cross_entropy")
    labels = tuple(case.label for case in attempt.cases)
    try:
        verdict = judge_forward(attempt)
        trials, crashes = try_backward(attempt, verdict.setup)
    except SubmissionError as error:
        return Grade(op, labels, "does not run", False, {}, [Finding((), str(error))])

    names = attempt.names
    errors = _errors(trials)
    wrong = [arg for arg, error in errors.items() if not error <= OP_LIMIT]
    findings = [Finding((), crash) for crash in crashes]
    if verdict.is_right:
        findings += diagnose(attempt.chain, trials, wrong, names)
    else:
        findings.append(Finding((), f"forward: {verdict.says}"))
        if wrong and fits_definition(attempt.chain, trials, wrong):
            says = "the backward is right for the op as it is defined: mend the forward alone"
            findings.append(Finding(tuple(wrong), says))
        else:
            findings += diagnose(replace(attempt.chain, mistakes=()), trials, wrong, names)
    return Grade(
        op,
        labels,
        verdict.says,
        verdict.is_right,
        {f"d{names[arg]}": error for arg, error in errors.items()},
        [Finding(tuple(f"d{names[arg]}" for arg in f.arguments), f.says) for f in findings],
    )


def _errors(trials: Sequence[Trial]) -> dict[str, float]:
    """The largest relative error of each gradient; inf where it is missing or misshapen."""
    errors: dict[str, float] = {}
    for trial in trials:
        found = {
            arg: np.empty((0, 0)) if gradient is None else gradient
            for arg, gradient in trial.found.items()
        }
        for arg, error in relative_errors(found, trial.expected).items():
            errors[arg] = max(errors.get(arg, 0.0), error)
    return errors


def _op_in_name(path: Path) -> str:
    """The longest op whose name is in the file's."""
    stem = path.stem.lower().replace("_", "").replace("-", "")
    found = [op for op in CHAINS if op.replace("_", "") in stem]
    return max(found, key=len, default="")
