"""From wrong gradients to the mistake behind them.

First the known mistakes of the op: each is run, and one that gives the same wrong numbers in every case is the one
that was made. Then steps that are off by a factor. What none of them explains is described by its looks: a factor, a
transpose, another argument's gradient, the last row alone.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import NamedTuple

import numpy as np

from xplm.numerics.gradient_check import relative_error, relative_errors, smallest_size
from xplm.numerics.grading.distortions import distortions
from xplm.numerics.grading.ratios import Sample, find_ratio
from xplm.numerics.mistakes.chain import Chain, Mistake, Values, run_backward

MATCH = 1e-6
"""Two gradients within this, relative, are the same one: far above rounding, far below any mistake."""


class Trial(NamedTuple):
    """One case of an op, run through somebody's forward and backward."""

    label: str
    values: Values  # the op's own arguments, options and forward steps
    dy: np.ndarray
    found: dict[str, np.ndarray | None]  # by the op's argument names
    expected: dict[str, np.ndarray]  # by central differences of their forward


class Finding(NamedTuple):
    """What is wrong."""

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
    malformed = [arg for arg in left if _malformed(arg, trials, names)]
    slight = [arg for arg in left if arg not in malformed and not _samples(arg, trials)]
    left = [arg for arg in left if arg not in malformed + slight]

    for first, second in combinations(left, 2):
        if _are_swapped(first, second, trials):
            says = f"d{names[first]} and d{names[second]} are returned in the wrong order"
            findings.append(Finding((first, second), says))
    left = [arg for arg in left if not any(arg in finding.arguments for finding in findings)]

    unknown = list(distortions(chain, trials[0].values)) if chain.mistakes else []
    while left:
        best = _best_mistake(chain, chain.mistakes, trials, left, wrong)
        if best is None:  # a gradient that is off by a factor is told so in fewer words
            odd = [arg for arg in left if find_ratio(_samples(arg, trials)) is None]
            best = _best_mistake(chain, unknown, trials, odd, wrong)
        if best is None:
            break
        known, explained, is_all = best
        says = _prefix(explained, trials, names) + known.says
        if not is_all:
            says += f"; here in {' and '.join(f'd{names[arg]}' for arg in explained)} alone"
        findings.append(Finding(tuple(explained), says))
        left = [arg for arg in left if arg not in explained]

    findings += [Finding((arg,), _malformed(arg, trials, names)) for arg in malformed]
    findings += [Finding((arg,), _slightly_off(arg, trials, names)) for arg in slight]
    findings += [Finding((arg,), _describe(chain, arg, trials, names)) for arg in left]
    return findings


def _are_swapped(first: str, second: str, trials: Sequence[Trial]) -> bool:
    return all(
        is_same(t.found[first], t.expected[second], t.expected)
        and is_same(t.found[second], t.expected[first], t.expected)
        for t in trials
        if first in t.expected and second in t.expected
    )


def is_same(
    found: np.ndarray | None, expected: np.ndarray, others: Mapping[str, np.ndarray]
) -> bool:
    """Whether two gradients are one, beside the others of the same case."""
    if found is None or found.shape != expected.shape:
        return False
    smallest = smallest_size([*others.values(), expected])
    return relative_error(found, expected, smallest) <= MATCH


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
            outcome = run_backward(chain, t.values, t.dy, known.steps)
            outcomes.append(outcome)
            explained = [
                arg
                for arg in explained
                if arg not in t.found or is_same(t.found[arg], np.asarray(outcome[arg]), t.expected)
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
            if arg not in wrong
            and not is_same(np.asarray(outcome[arg]), t.expected[arg], t.expected)
        }
        score = (len(explained), -len(contradicted))
        if best is None or score > best[0]:
            best = score, known, explained
    return None if best is None else (*best[1:], best[0][1] == 0)


def _prefix(explained: Sequence[str], trials: Sequence[Trial], names: Mapping[str, str]) -> str:
    """Such as "dWq is 11.3 times too large = sqrt(128): ", where one of the gradients is off by a factor."""
    for arg in explained:
        ratio = find_ratio(_samples(arg, trials))
        if ratio is not None:
            return f"d{names[arg]} {ratio}: "
    return ""


def _samples(arg: str, trials: Sequence[Trial]) -> list[Sample]:
    """The cases in which a gradient is wrong."""
    return [
        Sample(t.values, found, t.expected[arg])
        for t in trials
        if arg in t.expected
        and (found := t.found[arg]) is not None
        and not is_same(found, t.expected[arg], t.expected)
    ]


def _slightly_off(arg: str, trials: Sequence[Trial], names: Mapping[str, str]) -> str:
    """A gradient whose error is above the limit, and below what any mistake makes."""
    error = max(
        relative_errors({**t.expected, arg: found}, t.expected)[arg]
        for t in trials
        if (found := t.found.get(arg)) is not None
    )
    return (
        f"d{names[arg]} is off by {error:.1g} only, which looks like float32 arithmetic: keep the "
        "dtype that comes in"
    )


def _malformed(arg: str, trials: Sequence[Trial], names: Mapping[str, str]) -> str:
    """What keeps a gradient from being compared at all, or ""."""
    name = f"d{names[arg]}"
    for t in trials:
        if arg not in t.expected:
            continue
        found, expected = t.found[arg], t.expected[arg]
        if found is None:
            return f"{name} is missing: backward returns nothing for it"
        if found.shape != expected.shape:
            others = [
                other for other in t.expected if is_same(found, t.expected[other], t.expected)
            ]
            why = f": it is d{names[others[0]]}" if others else _reshaped(found, expected)
            return f"{name} has shape {found.shape}; {names[arg]} has {expected.shape}{why}"
        if not np.isfinite(found).all():
            return f"{name} holds NaN or infinity (case: {t.label})"
    return ""


def _reshaped(found: np.ndarray, expected: np.ndarray) -> str:
    """Why a shape might be wrong, as the end of a sentence."""

    def equals(array: np.ndarray) -> bool:
        return array.shape == expected.shape and bool(np.allclose(array, expected, rtol=MATCH))

    if found.ndim >= 2 and equals(np.swapaxes(found, -1, -2)):
        return ": it is transposed"
    leading = tuple(range(found.ndim - expected.ndim))
    if leading and equals(found.sum(leading)):
        return ": sum it over the leading axes"
    if found.size == expected.size and equals(found.reshape(expected.shape)):
        return ": its numbers are right, reshape it"
    if found.ndim == expected.ndim:
        wide = tuple(
            i for i, (n, m) in enumerate(zip(found.shape, expected.shape, strict=True)) if n != m
        )
        if all(expected.shape[i] == 1 for i in wide) and equals(found.sum(wide, keepdims=True)):
            return ": sum it over the axis that was broadcast"
    return ""


def _describe(chain: Chain, arg: str, trials: Sequence[Trial], names: Mapping[str, str]) -> str:
    """A wrong gradient that no known mistake explains, by its looks."""
    samples = _samples(arg, trials)
    name = f"d{names[arg]}"
    if all(not sample.found.any() for sample in samples):
        return f"{name} is all zeros"

    ratio = find_ratio(samples)
    if ratio is not None:
        factor = f"the factor {ratio.meaning}" if ratio.meaning else "a constant factor"
        if ratio.size_of and ratio.size_of[0] in names:
            argument, axis = ratio.size_of
            place = {0: "the first axis", -1: "the last axis"}.get(axis, f"axis {axis}")
            factor += f", the length of {place} of {names[argument]},"
        way = "too many" if abs(ratio.value) > 1 else "missing"
        return f"{name} {ratio}" + ("" if ratio.value == -1 else f": look for {factor} {way}")

    present = [t for t in trials if arg in t.expected]
    for looks, says in _looks(chain, arg, names):
        pairs = [(t, array) for t in present if (array := looks(t)) is not None]
        if pairs and all(is_same(t.found[arg], array, t.expected) for t, array in pairs):
            return f"{name} {says}"

    fine = [t for t in present if is_same(t.found[arg], t.expected[arg], t.expected)]
    bad = [t for t in present if t not in fine]
    return f"{name} {_where(arg, bad, n_fine=len(fine))}"


def _looks(
    chain: Chain, arg: str, names: Mapping[str, str]
) -> Iterator[tuple[Callable[[Trial], np.ndarray | None], str]]:
    """Wrong gradients that any op can have, and what each would mean."""

    def again(dy: np.ndarray, t: Trial) -> np.ndarray:
        return run_backward(chain, t.values, dy)[arg]

    def one_item(item: int, t: Trial) -> np.ndarray | None:
        if not t.dy.ndim:
            return None
        dy = np.zeros_like(t.dy)
        dy[item] = t.dy[item]
        return again(dy, t)

    def transposed(t: Trial) -> np.ndarray | None:
        return np.swapaxes(t.expected[arg], -1, -2) if t.expected[arg].ndim > 1 else None

    def of(other: str, t: Trial) -> np.ndarray | None:
        return t.expected.get(other)

    for other in chain.gradients:
        if other != arg:
            says = f"is what d{names[other]} should be: are they returned in the wrong order?"
            yield partial(of, other), says
    yield transposed, "is transposed"
    yield lambda t: again(np.ones_like(t.dy), t), "ignores dy: it is the gradient of sum(y)"
    yield lambda t: t.dy, "is dy itself"
    yield lambda t: t.values.y, "is y itself"
    yield partial(one_item, -1), "counts the last item of the first axis alone: += became ="
    yield partial(one_item, 0), "counts the first item of the first axis alone"


def _where(arg: str, bad: Sequence[Trial], *, n_fine: int) -> str:
    """Where a gradient is wrong and by how much."""
    worst = bad[0]
    found, expected = worst.found[arg], worst.expected[arg]
    assert found is not None
    difference = np.abs(found - expected)
    place = tuple(int(i) for i in np.unravel_index(difference.argmax(), difference.shape))
    n_wrong = int(np.sum(difference > MATCH * np.abs(expected).max()))
    cases = ", ".join(f'"{t.label}"' for t in bad)
    scope = f"in {len(bad)} of {len(bad) + n_fine} cases ({cases})" if n_fine else "in every case"
    at = "[" + ", ".join(map(str, place)) + "]" if place else ""
    return (
        f"is wrong {scope}, in {n_wrong} of {expected.size} numbers of the first; the furthest off is "
        f"{at} {found[place]:.6g} where {expected[place]:.6g} belongs"
    )
