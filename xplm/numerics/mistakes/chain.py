"""An op written as a chain of small named steps, so that a mistake is one step written otherwise.

    steps     n = x * rstd,  dn = dy * weight,  dx = rstd * (dn - n * mean(dn * n))
    mistake   dx = rstd * dn                          "dx lacks the path through rstd"

A step is a function of everything before it: the op's arguments and options, dy, and earlier steps, all as attributes
of one value. Running the chain with a mistake's steps in place gives the gradients of whoever makes this
mistake, to the last digit; that is how a wrong gradient is recognised.

The chains are a second derivation of every gradient, in plain NumPy and float64, that shares no line with
`xplm.kernels`. Without a mistake the two agree, and a test holds them together.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np

Values: TypeAlias = Any
"""Arguments, options and steps so far, as attributes."""

Formula: TypeAlias = Callable[[Values], Any]
"""How a step is computed from values."""


@dataclass(frozen=True)
class Mistake:
    """One way to get an op wrong."""

    says: str  # what is wrong and what would be right, as it is shown to whoever made it
    steps: Mapping[str, Formula]  # the steps that it changes


WRONG_AXES: tuple[tuple[Any, str], ...] = (
    (0, "axis 0"),
    (-2, "axis -2"),
    (1, "axis 1"),
    (2, "axis 2"),
    (-3, "axis -3"),
    (None, "the whole array"),
    ("leading", "all axes but the last"),
)
"""Where a sum over the last axis may run by mistake, and how that is called."""


def axes_of(axis: Any, x: np.ndarray) -> Any:
    """One of WRONG_AXES, or -1, as NumPy takes it; -1 where x has no such axis."""
    if axis == "leading":
        return tuple(range(x.ndim - 1))
    return axis if axis is None or -x.ndim <= axis < x.ndim else -1


@dataclass(frozen=True)
class Reduction:
    """A step that is a sum or a mean over each row: (..., 1)."""

    says: str  # "the sum of dy * y"
    how: Callable[..., np.ndarray]  # np.sum or np.mean
    of: Formula

    def __call__(self, e: Values) -> np.ndarray:
        """The step as it belongs."""
        return self.over(-1)(e)

    def over(self, axis: Any) -> Formula:
        """The step over another axis, with the axis kept."""

        def run(e: Values) -> np.ndarray:
            x = self.of(e)
            return self.how(x, axis=axes_of(axis, x), keepdims=True)

        return run


def mistake(says: str, **steps: Formula) -> Mistake:
    """A mistake, with the steps that it changes as keywords."""
    return Mistake(says, steps)


@dataclass(frozen=True)
class Form:
    """A legitimate way of defining an op that differs from this library's."""

    says: str
    changes: Mapping[str, Any]  # options


OWN_FORM = Form("", {})


@dataclass(frozen=True)
class Chain:
    """An op: its steps, and the ways in which they are known to go wrong."""

    arguments: tuple[str, ...]  # the forward's arrays, in order
    gradients: tuple[str, ...]  # those of them that have a gradient
    forward: Mapping[str, Formula]  # ends with "y"
    backward: Mapping[str, Formula]  # has "d" + name for each of `gradients`
    mistakes: tuple[Mistake, ...]  # in the backward
    forward_mistakes: tuple[Mistake, ...] = ()
    forms: tuple[Form, ...] = ()
    matrices: tuple[str, ...] = ()  # arguments (outputs, inputs) that others store transposed
    positions: Mapping[str, int] = field(
        default_factory=dict
    )  # arguments whose leading axes are positions, as y's are: how many other axes each has
    kept: tuple[str, ...] = ("y",)  # forward steps that a backward pass never computes again
    words: Mapping[str, str] = field(
        default_factory=dict
    )  # backward steps that may be off by a factor, as a sentence begins


def part_mistakes(
    part: Chain,
    seen: Callable[[Values], Mapping[str, Any]],
    dy: Callable[[Values], np.ndarray],
    results: Mapping[str, str],
    words: Mapping[str, str],
    where: str,
) -> tuple[Mistake, ...]:
    """An op's mistakes, made where it is a part of a larger op.

    Args:
        part: the op.
        seen: its arguments, options and forward steps, from the larger op's values.
        dy: the gradient of its y.
        results: its arguments -> the larger op's steps that are their gradients.
        words: its names in what its mistakes say -> the larger op's.
        where: how that begins.
    """

    def gradient(argument: str, changed: Mapping[str, Formula], e: Values) -> np.ndarray:
        return run_backward(part, SimpleNamespace(**seen(e)), dy(e), changed)[argument]

    def said(text: str) -> str:
        return where + re.sub(r"\w+", lambda word: words.get(word[0], word[0]), text)

    return tuple(
        Mistake(
            said(known.says),
            {step: partial(gradient, argument, known.steps) for argument, step in results.items()},
        )
        for known in part.mistakes
    )


def run_forward(
    chain: Chain, values: Mapping[str, Any], changed: Mapping[str, Formula] = {}
) -> Values:
    """The arguments and options with every forward step added.

    Args:
        chain: the op.
        values: its arguments and options by name.
        changed: steps to take in place of the chain's own.
    """
    return _run(chain.forward, SimpleNamespace(**values), changed)


def run_backward(
    chain: Chain, values: Values, dy: np.ndarray, changed: Mapping[str, Formula] = {}
) -> dict[str, np.ndarray]:
    """Gradients by argument.

    Args:
        chain: the op.
        values: what `run_forward` returned.
        dy: the gradient of y.
        changed: steps to take in place of the chain's own. A forward step among them is what the backward pass takes
            the forward to have been; what is kept stays.
    """
    after = SimpleNamespace(**vars(values))
    if changed.keys() & chain.forward.keys():
        after = _run(chain.forward, after, changed)
        for name in chain.kept:
            setattr(after, name, getattr(values, name))
    after.dy = dy
    after = _run(chain.backward, after, changed)
    present = (name for name in chain.gradients if getattr(after, name) is not None)
    return {name: getattr(after, f"d{name}") for name in present}


def _run(steps: Mapping[str, Formula], values: Values, changed: Mapping[str, Formula]) -> Values:
    with np.errstate(all="ignore"):  # a mistake may well divide by zero
        for name, step in steps.items():
            setattr(values, name, changed.get(name, step)(values))
    return values


def rows(x: np.ndarray) -> np.ndarray:
    """x (..., C) as (N, C)."""
    return x.reshape(-1, x.shape[-1])


def bias_or_zero(e: Values) -> np.ndarray | float:
    """The bias, or 0 where there is none."""
    return 0.0 if e.bias is None else e.bias


def mean(x: np.ndarray) -> np.ndarray:
    """The mean of each row, (..., 1)."""
    return np.mean(x, axis=-1, keepdims=True)


def total(x: np.ndarray) -> np.ndarray:
    """The sum of each row, (..., 1)."""
    return np.sum(x, axis=-1, keepdims=True)


def flip(x: np.ndarray) -> np.ndarray:
    """The transpose of the last two axes."""
    return np.swapaxes(x, -1, -2)
