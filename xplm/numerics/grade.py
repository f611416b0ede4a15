"""Check a file's own forward and backward of an op, and name the likely mistake.

The forward is compared with the op's definition, the backward with central differences of the file's forward, both on
cases that fit the forward's parameters. Wrong gradients go to `grading.diagnosis`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from xplm.errors import RequestError, did_you_mean
from xplm.numerics.grading.attempt import Attempt
from xplm.numerics.grading.diagnosis import Finding, diagnose
from xplm.numerics.grading.extremes import find_overflow
from xplm.numerics.grading.judging import Judgement, judge_forward
from xplm.numerics.grading.opening import load_submission
from xplm.numerics.grading.raised import SubmissionError
from xplm.numerics.grading.scope import narrowed
from xplm.numerics.grading.trial import Trial, slight_gradients, wrong_gradients
from xplm.numerics.grading.trying import Tried, called_otherwise, try_backward
from xplm.numerics.mistakes import CHAINS
from xplm.numerics.mistakes.chain import Chain

DOES_NOT_RUN = "does not run"
OVERFLOWS = "is right, but overflows"


@dataclass(frozen=True)
class Grade:
    """The result of grading a file."""

    op: str
    cases: tuple[str, ...]  # labels of what it was tried on
    forward: str  # how the forward compares with the op's definition
    forward_is_right: bool
    errors: dict[
        str, float
    ]  # largest relative error by gradient, under the file's own names: "dWq"
    findings: list[Finding]  # empty: nothing is wrong
    wrong: tuple[str, ...] = ()  # those of `errors` that are too large
    dtypes: dict[str, str] = field(default_factory=dict)  # narrower than float64, of right ones
    notes: list[str] = field(default_factory=list)  # what it was not tried on, and why
    backward: str = ""  # "does not run", if it does not

    @property
    def passed(self) -> bool:
        """True where forward and backward are both right."""
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
        attempt = Attempt(submission, "mean_cross_entropy")
    return _grade(attempt)


def _grade(attempt: Attempt) -> Grade:
    labels = tuple(case.label for case in attempt.cases)
    try:
        judgement = judge_forward(attempt)
    except SubmissionError as error:
        return Grade(attempt.op, labels, DOES_NOT_RUN, False, {}, [Finding((), str(error))])
    forward_findings = [Finding((), f"forward: {judgement.fault}")] if judgement.fault else []
    try:
        tried, scope = narrowed(attempt, try_backward(attempt, judgement))
    except SubmissionError as error:
        return Grade(attempt.op, labels, judgement.says, False, {}, [Finding((), str(error))])
    overflow = ""
    if judgement.is_the_op:
        overflow = find_overflow(attempt, judgement, runs_back=not tried.crashes)
    if overflow:
        forward_findings.append(Finding((), overflow))

    names = attempt.names(judgement.setup.order)
    wrong = wrong_gradients(tried.trials)
    findings = _explain(attempt, judgement, tried, wrong, names)
    return Grade(
        attempt.op,
        tuple(case.label for case in judgement.cases),
        OVERFLOWS if overflow and not judgement.fault else judgement.says,
        not forward_findings,
        {f"d{names[arg]}": error for arg, error in _errors(tried.trials).items()},
        forward_findings
        + [Finding(tuple(f"d{names[arg]}" for arg in f.arguments), f.says) for f in findings],
        tuple(f"d{names[arg]}" for arg in wrong),
        {f"d{names[arg]}": dtype for arg, dtype in slight_gradients(tried.trials).items()},
        judgement.notes + scope + attempt.missing_options(),
        "" if tried.trials else DOES_NOT_RUN,
    )


def _explain(
    attempt: Attempt,
    judgement: Judgement,
    tried: Tried,
    wrong: Sequence[str],
    names: dict[str, str],
) -> list[Finding]:
    """The findings about the backward."""
    chain, trials = attempt.chain, tried.trials
    if (wrong or tried.crashes) and (says := called_otherwise(attempt, judgement, tried)):
        return [Finding(tuple(wrong), says)]
    crashes = [Finding((), f'{error} (case "{case.label}")') for case, error in tried.crashes[:1]]
    if not trials:
        return crashes
    if judgement.is_the_op:
        return crashes + diagnose(chain, trials, wrong, names)
    if wrong and _fits_definition(chain, trials, wrong):
        says = "the backward is right for the op as it is defined: mend the forward alone"
        return [*crashes, Finding(tuple(wrong), says)]
    return crashes + diagnose(replace(chain, mistakes=()), trials, wrong, names)


def _fits_definition(chain: Chain, trials: Sequence[Trial], arguments: Sequence[str]) -> bool:
    """True where these gradients are those of the op itself, whatever the forward does."""
    return all(
        trial.is_like(arg, right[arg])
        for trial in trials
        for right in (trial.outcome(chain),)
        for arg in arguments
        if arg in right
    )


def _errors(trials: Sequence[Trial]) -> dict[str, float]:
    """The largest relative error of each gradient; inf where it is missing or misshapen."""
    errors: dict[str, float] = {}
    for trial in trials:
        for arg, error in trial.errors().items():
            errors[arg] = max(errors.get(arg, 0.0), error)
    return errors


def _op_in_name(path: Path) -> str:
    """The longest op whose name is in the file's."""
    stem = path.stem.lower().replace("_", "").replace("-", "")
    found = [op for op in CHAINS if op.replace("_", "") in stem]
    return max(found, key=len, default="")
