"""Mistakes that no list holds: a sum over another axis, or a step off by a factor that the op has at hand.

    the sum over axis 0, axis -2, the whole array, ...
    the step times -1, 2, 1/2, times or divided by C, rstd, rstd^2, scale, ...

The sums are a chain's reductions, and the steps those that it has words for. A gradient that is itself off by a factor
is seen without running anything, in `ratios`.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np

from xplm.numerics.mistakes.chain import (
    WRONG_AXES,
    Chain,
    Formula,
    Mistake,
    Reduction,
    Values,
)

Factor = Callable[[Values], Any]

PLAIN: tuple[tuple[str, Factor], ...] = (
    ("has the wrong sign", lambda e: -1.0),
    ("is twice what it should be", lambda e: 2.0),
    ("is half of what it should be", lambda e: 0.5),
)


def distortions(chain: Chain, values: Values) -> Iterator[Mistake]:
    """Every step that has a name in words off by every factor.

    Args:
        chain: the op.
        values: of one of its cases, which show what factors there are.
    """
    yield from wrong_axes(chain.backward)
    for known in wrong_axes(chain.forward):
        yield Mistake(f"in backward, {known.says}", known.steps)
    factors = [*PLAIN, *_factors(chain, values)]
    for name, words in chain.words.items():
        for says, factor in factors:
            yield Mistake(f"{words} {says}", {name: partial(_times, chain.backward[name], factor)})


def wrong_axes(steps: Mapping[str, Formula]) -> Iterator[Mistake]:
    """Sums and means over rows that run over another axis: each alone, and those that go wrong together."""
    reductions = {name: step for name, step in steps.items() if isinstance(step, Reduction)}
    for n in range(1, len(reductions) + 1):
        for names in combinations(reductions, n):
            listed = " and ".join(reductions[name].says for name in names)
            for axis, words in WRONG_AXES:
                yield Mistake(
                    f"wrong axis: {listed} {'runs' if n == 1 else 'run'} over {words}; each row has "
                    "its own, over the last axis (axis=-1, keepdims=True)",
                    {name: reductions[name].over(axis) for name in names},
                )


def _times(step: Formula, factor: Factor, e: Values) -> Any:
    """The step off by the factor; as it is where it has no rows that the factor is of."""
    y, times = np.asarray(step(e)), np.asarray(factor(e))
    fits = times.ndim == 0 or times.shape[:-1] == y.shape[:-1]
    return y * times if fits and y.dtype.kind == "f" else y


def _power(name: str, exponent: int, e: Values) -> Any:
    return getattr(e, name) ** exponent


def _row_length(exponent: int, e: Values) -> Any:
    return float(e.dy.shape[-1]) ** exponent if e.dy.ndim else 1.0


def _factors(chain: Chain, values: Values) -> Iterator[tuple[str, Factor]]:
    """Statistics of a row, options, and the length of a row, up to their squares."""
    for exponent, says in ((1, "has a 1/C missing"), (-1, "has a 1/C too many")):
        yield says, partial(_row_length, exponent)
    names = [
        name
        for name, value in vars(values).items()
        if (isinstance(value, float) and value != 0.0)
        or (
            name in chain.forward
            and not isinstance(chain.forward[name], Reduction)
            and isinstance(value, np.ndarray)
            and value.shape[-1:] == (1,)
        )
    ]
    for name in names:
        for exponent in (1, 2):
            written = name if exponent == 1 else f"{name}^{exponent}"
            yield f"has {written} too many", partial(_power, name, exponent)
            yield f"lacks {written}", partial(_power, name, -exponent)
