"""From wrong gradients to the mistake behind them.

First the known mistakes of the op: each is run, and one that gives the same wrong numbers in every case is the one
that was made. Then steps that are off by a factor. What none of them explains is described by its looks: a factor, a
transpose, another argument's gradient, the last row alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from xplm.numerics.grading.distortions import distortions
from xplm.numerics.grading.looks import describe, wrong_cases
from xplm.numerics.grading.malformed import malformed
from xplm.numerics.grading.ratios import find_ratio
from xplm.numerics.grading.trial import Trial, is_same
from xplm.numerics.grading.wording import in_their_names
from xplm.numerics.mistakes.chain import Chain, Mistake


class Finding(NamedTuple):
    """One mistake."""

    arguments: tuple[str, ...]  # what it explains; () for the forward or the whole file
    says: str


def diagnose(
    chain: Chain, trials: Sequence[Trial], wrong: Sequence[str], names: Mapping[str, str]
) -> list[Finding]:
    """Explain every wrong gradient.

    Args:
        chain: the op.
        trials: the cases.
        wrong: arguments whose gradient is wrong in one of them.
        names: what the file calls each argument.

    Returns:
        Findings that between them name each of `wrong` once, the most telling first.
    """
    left = list(wrong)
    findings = []
    for group in _in_another_order(left, trials):
        there = [arg for arg in chain.gradients if arg in trials[0].expected]
        returned = ", ".join(f"d{names[group.get(arg, arg)]}" for arg in there)
        asked = ", ".join(f"d{names[arg]}" for arg in there)
        *most, last = (f"d{names[arg]}" for arg in group)
        says = (
            f"{', '.join(most)} and {last} are returned in the wrong order: backward returns "
            f"{returned}; in the order of forward's arrays they are {asked}"
        )
        findings.append(Finding(tuple(group), says))
        left = [arg for arg in left if arg not in group]
    faults = {arg: malformed(arg, trials, names) for arg in left}
    left = [arg for arg in left if not faults[arg]]

    unknown = list(distortions(chain, trials[0].values)) if chain.mistakes else []
    while left:
        best = _best_mistake(chain, chain.mistakes, trials, left, wrong)
        if best is None:  # a gradient that is off by a factor is told so in fewer words
            odd = [arg for arg in left if find_ratio(wrong_cases(arg, trials)) is None]
            best = _best_mistake(chain, unknown, trials, odd, wrong)
        if best is None:
            break
        known, explained, is_all = best
        says = _prefix(explained, trials, names) + in_their_names(known.says, names)
        if not is_all:
            says += f"; here in {' and '.join(f'd{names[arg]}' for arg in explained)} alone"
        findings.append(Finding(tuple(explained), says))
        left = [arg for arg in left if arg not in explained]

    findings += [Finding((arg,), fault) for arg, fault in faults.items() if fault]
    findings += [Finding((arg,), describe(chain, arg, trials, names)) for arg in left]
    return findings


def _in_another_order(wrong: Sequence[str], trials: Sequence[Trial]) -> Iterator[dict[str, str]]:
    """Wrong gradients that are each other's: those that stand in for one another, by whose place they are in."""
    stands_in = {}
    for arg in wrong:
        for other in wrong:
            pairs = [t for t in trials if arg in t.expected and other in t.expected]
            if other != arg and pairs and all(t.is_like(arg, t.expected[other]) for t in pairs):
                stands_in[arg] = other
    while stands_in:
        start = next(iter(stands_in))
        cycle = {}
        arg = start
        while arg in stands_in and arg not in cycle:
            cycle[arg] = stands_in.pop(arg)
            arg = cycle[arg]
        if arg == start:
            yield {a: cycle[a] for a in wrong if a in cycle}


def _best_mistake(
    chain: Chain,
    mistakes: Sequence[Mistake],
    trials: Sequence[Trial],
    left: Sequence[str],
    wrong: Sequence[str],
) -> tuple[Mistake, list[str], bool] | None:
    """The mistake that explains the most of what is left and contradicts the least of the rest.

    Returns:
        The mistake, what it explains, and whether it would spoil nothing else.
    """
    best: tuple[tuple[int, int], Mistake, list[str]] | None = None
    for known in mistakes:
        explained, outcomes = list(left), []
        for t in trials:  # most mistakes explain nothing of the first
            outcome = t.outcome(chain, known.steps)
            outcomes.append(outcome)
            explained = [
                arg for arg in explained if arg not in t.expected or t.is_like(arg, outcome[arg])
            ]
            if not explained:
                break
        if not explained:
            continue
        # It would also spoil these, which are right.
        contradicted = {
            arg
            for t, outcome in zip(trials, outcomes, strict=True)
            for arg in t.expected
            if arg not in wrong and not is_same(outcome[arg], t.expected[arg], t.smallest)
        }
        score = (len(explained), -len(contradicted))
        if best is None or score > best[0]:
            best = score, known, explained
    return None if best is None else (*best[1:], best[0][1] == 0)


def _prefix(explained: Sequence[str], trials: Sequence[Trial], names: Mapping[str, str]) -> str:
    """Such as "dWq is 11.3 times too large = sqrt(128): ", where one of the gradients is off by a factor."""
    for arg in explained:
        ratio = find_ratio(wrong_cases(arg, trials))
        if ratio is not None:
            return f"d{names[arg]} {ratio}: "
    return ""
