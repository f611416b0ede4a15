"""A wrong gradient that no known mistake explains, by its looks: a factor, a transpose, the last row alone."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np

from xplm.numerics.grading.accuracy import MATCH
from xplm.numerics.grading.ratios import WrongCase, find_ratio
from xplm.numerics.grading.trial import Trial
from xplm.numerics.mistakes.chain import Chain, run_backward

Place: TypeAlias = tuple[int | slice, ...]

ITEMS: tuple[tuple[Callable[[int], Place], str], ...] = (
    (lambda n: (-1,), "the last item of the first axis alone: += became ="),
    (lambda n: (-1,) * (n - 1), "the last row alone: += became ="),
    (lambda n: (slice(None), -1)[: n - 1], "the last item of the second axis alone: += became ="),
    (lambda n: (0,), "the first item of the first axis alone"),
    (lambda n: (0,) * (n - 1), "the first row alone"),
    (lambda n: (slice(None), 0)[: n - 1], "the first item of the second axis alone"),
)
"""Parts of a sum, by how many axes there are: those that a loop leaves which overwrites, or which ends too early."""


def wrong_cases(arg: str, trials: Sequence[Trial]) -> list[WrongCase]:
    """The cases in which a gradient is wrong."""
    return [
        WrongCase(t.values, found, t.expected[arg], t.tolerance(arg))
        for t in trials
        if arg in t.expected
        and (found := t.found.get(arg)) is not None
        and not t.is_like(arg, t.expected[arg])
    ]


def describe(chain: Chain, arg: str, trials: Sequence[Trial], names: Mapping[str, str]) -> str:
    """A wrong gradient that no known mistake explains, by its looks."""
    cases = wrong_cases(arg, trials)
    name = f"d{names[arg]}"
    if all(not case.found.any() for case in cases):
        return f"{name} is all zeros"

    ratio = find_ratio(cases)
    if ratio is not None:
        factor = f"the factor {ratio.meaning}" if ratio.meaning else "a constant factor"
        if ratio.size_of and ratio.size_of[0] in names:
            argument, axis = ratio.size_of
            if argument in chain.matrices and trials[0].layout.transposed:
                axis = {0: -1, -1: 0}.get(axis, axis)
            place = {0: "the first axis", -1: "the last axis"}.get(axis, f"axis {axis}")
            factor += f", the length of {place} of {names[argument]},"
        way = "too many" if abs(ratio.value) > 1 else "missing"
        return f"{name} {ratio}" + ("" if ratio.value == -1 else f": look for {factor} {way}")

    present = [t for t in trials if arg in t.expected]
    fine = [t for t in present if t.is_like(arg, t.expected[arg])]
    bad = [t for t in present if t not in fine]
    scope = f"; in {len(bad)} of {len(present)} cases ({_listed(bad)})" if fine else ""
    for looks, says in _looks(chain, arg, names):
        pairs = [(t, array) for t in bad if (array := looks(t)) is not None]
        if pairs and all(t.is_like(arg, array) for t, array in pairs):
            return f"{name} {says}{scope}"
    return f"{name} {_where(arg, bad, n_fine=len(fine))}"


def _looks(
    chain: Chain, arg: str, names: Mapping[str, str]
) -> Iterator[tuple[Callable[[Trial], np.ndarray | None], str]]:
    """Wrong gradients that any op can have, and what each would mean."""

    def again(dy: np.ndarray, t: Trial) -> np.ndarray:
        return t.stored(chain, run_backward(chain, t.values, dy))[arg]

    def some_items(place: Callable[[int], Place], t: Trial) -> np.ndarray | None:
        if not t.dy.ndim:
            return None
        where = place(t.dy.ndim)
        dy = np.zeros_like(t.dy)
        dy[where] = t.dy[where]
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
    for place, words in ITEMS:
        yield partial(some_items, place), f"counts {words}"


def _where(arg: str, bad: Sequence[Trial], *, n_fine: int) -> str:
    """Where a gradient is wrong and by how much."""
    worst = bad[0]
    found, expected = worst.found[arg], worst.expected[arg]
    assert found is not None
    difference = np.abs(found - expected)
    place = tuple(int(i) for i in np.unravel_index(difference.argmax(), difference.shape))
    n_wrong = int(np.sum(difference > MATCH * np.abs(expected).max()))
    scope = (
        f"in {len(bad)} of {len(bad) + n_fine} cases ({_listed(bad)})"
        if n_fine
        else "in every case"
    )
    at = "[" + ", ".join(map(str, place)) + "]" if place else ""
    return (
        f"is wrong {scope}, in {n_wrong} of {expected.size} numbers of the first; the furthest off is "
        f"{at} {found[place]:.6g} where {expected[place]:.6g} belongs"
    )


def _listed(trials: Sequence[Trial]) -> str:
    return ", ".join(f'"{t.label}"' for t in trials)
