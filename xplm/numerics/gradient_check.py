"""A hand-derived gradient against central differences, in float64.

For a scalar f and one coordinate x with step h,

    f'(x) = (8 (f(x+h) - f(x-h)) - (f(x+2h) - f(x-2h))) / (12 h) + O(h^4 f^(5))

the four-point central difference; its rounding error is about eps |f| / h. With h near 1e-3 both are near 1e-12,
which is why a correct gradient agrees to 1e-8 and a wrong one cannot.

The error of a tensor is the largest difference over the largest number in it: an entry that is small because others
cancel in it says nothing of the formula. A whole tensor may cancel too: softmax does not notice what all scores of a
row have in common, so the bias of a key projection has gradient 0, and rounding alone would look like an infinite
error. No tensor's size therefore counts as less than SMALLEST_SHARE of the largest gradient that it was checked with.

Where only some numbers g_i of a gradient are differentiated at, one direction through all n of them is as well: for
random signs s_i, u = s / sqrt(n),

    d/dh f(x + h u) = sum_i g_i s_i / sqrt(n)

for four evaluations more. A mistake of size d in any one of them shows as d / |g|, and cannot hide.

Source: Fornberg, "Generation of finite difference formulas on arbitrarily spaced grids", Math. Comp. 51 (1988),
table 1.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from xplm.progress import OnProgress, unseen

STEP = 5.0e-4

OP_LIMIT = 1e-8
"""The most that an op's or a layer's gradient may be off by, relative."""

MODEL_LIMIT = 1e-6
"""The most that a whole model's gradient may be off by: its loss passes through many more roundings."""

SMALLEST_SHARE = 1e-3

CHECKING = "checking gradients"
"""Counted in arrays."""


class GradientError(NamedTuple):
    """How far one gradient is from the differences."""

    argument: str  # the name of what it is the gradient of
    n_compared: int  # numbers, each alone
    n_numbers: int  # of the gradient; where there are more, a direction through all of them was compared too
    error: float  # the largest difference over the gradient's size; inf for a wrong shape or NaN


def numerical_gradient(
    f: Callable[[], float], x: np.ndarray, indices: np.ndarray | None = None
) -> np.ndarray:
    """The gradient of f with respect to an array that it reads.

    Args:
        f: computes a scalar from x, which is changed in place between calls and restored.
        x: float64, writable, contiguous.
        indices: flat indices to differentiate at; None: all of them.

    Returns:
        The derivatives at `indices` (n,), or an array of x's shape.
    """
    flat = x.reshape(-1)
    assert np.shares_memory(flat, x)
    chosen = np.arange(flat.size) if indices is None else indices
    gradient = np.empty(len(chosen))
    for n, i in enumerate(chosen):
        centre = flat[i]
        h = STEP * max(1.0, abs(centre))
        values = []
        for offset in (h, -h, 2.0 * h, -2.0 * h):
            flat[i] = centre + offset
            values.append(f())
        flat[i] = centre
        gradient[n] = (8.0 * (values[0] - values[1]) - (values[2] - values[3])) / (12.0 * h)
    return gradient.reshape(x.shape) if indices is None else gradient


def relative_error(analytic: np.ndarray, numerical: np.ndarray, smallest: float = 0.0) -> float:
    """max |analytic - numerical| / max |numerical|, where the divisor is at least `smallest`; 0 for two zeros.

    Infinite where the shapes differ, or a number of either is complex or not finite.
    """
    both = (analytic, numerical)
    are_real = all(np.isrealobj(array) and np.isfinite(array).all() for array in both)
    if analytic.shape != numerical.shape or not are_real:
        return float("inf")
    difference = float(np.max(np.abs(analytic - numerical), initial=0.0))
    size = max(float(np.max(np.abs(numerical), initial=0.0)), smallest)
    return difference / size if size > 0.0 else difference


def smallest_size(gradients: Iterable[np.ndarray]) -> float:
    """The size below which a gradient counts as zero next to the other gradients of the same function."""
    sizes = (float(np.max(np.abs(array), initial=0.0)) for array in gradients)
    return SMALLEST_SHARE * max(sizes, default=0.0)


def relative_errors(
    analytic: Mapping[str, np.ndarray], numerical: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """The relative error of each of several gradients of one function, by name."""
    smallest = smallest_size(numerical.values())
    return {
        name: relative_error(analytic[name], expected, smallest)
        for name, expected in numerical.items()
    }


def check_gradients(
    f: Callable[[], float],
    arrays: Mapping[str, np.ndarray],
    analytic: Mapping[str, np.ndarray],
    *,
    entries: int | None = None,
    seed: int = 0,
    progress: OnProgress = unseen,
) -> list[GradientError]:
    """Compare the gradients of f with respect to several arrays with differences.

    Args:
        f: computes a scalar from the arrays.
        arrays: what f reads, by name: float64, writable, contiguous.
        analytic: its gradients by the same names.
        entries: numbers of each array to differentiate at: those with the largest gradients, and as many drawn at
            random, and a direction through all of them; None: all.
        seed: of those draws.
        progress: called with the arrays done so far.

    Returns:
        One error an array, in the order of `arrays`.
    """
    rng = np.random.default_rng(seed)
    found, expected, along = {}, {}, {}
    for done, (name, array) in enumerate(arrays.items()):
        progress(CHECKING, done, len(arrays))
        if analytic[name].shape != array.shape:
            found[name], expected[name] = analytic[name], numerical_gradient(f, array)
            continue
        chosen = np.arange(array.size)
        if entries is not None and entries < array.size:
            largest = np.argsort(-np.abs(analytic[name].reshape(-1)))[: entries // 2]
            drawn = rng.choice(array.size, entries - len(largest), replace=False)
            chosen = np.union1d(largest, drawn)
            signs = rng.choice((-1.0, 1.0), array.shape)
            along[name] = (np.sum(analytic[name] * signs), directional_derivative(f, array, signs))
        found[name] = analytic[name].reshape(-1)[chosen]
        expected[name] = numerical_gradient(f, array, chosen)
    progress(CHECKING, len(arrays), len(arrays))
    errors = relative_errors(found, expected)
    for name, error in _errors_along(along, analytic).items():
        errors[name] = max(errors[name], error)
    return [
        GradientError(name, expected[name].size, array.size, errors[name])
        for name, array in arrays.items()
    ]


def directional_derivative(f: Callable[[], float], x: np.ndarray, signs: np.ndarray) -> float:
    """The derivative of f along all numbers of an array at once: sum of its gradient times `signs`.

    Args:
        f: computes a scalar from x, which is changed in place between calls and restored.
        x: float64, writable.
        signs: of x's shape, each 1 or -1.
    """
    n_root = float(np.sqrt(x.size))
    distance = np.zeros(1)  # along the unit vector
    centre = x.copy()

    def at() -> float:
        x[...] = centre + distance[0] / n_root * signs
        return f()

    derivative = numerical_gradient(at, distance)[0] * n_root
    x[...] = centre
    return float(derivative)


def _errors_along(
    along: Mapping[str, tuple[float, float]], analytic: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """The relative errors of derivatives along a direction, (analytic, numerical) by name."""
    are_real = {
        name: np.isrealobj(found) and bool(np.isfinite([found, expected]).all())
        for name, (found, expected) in along.items()
    }
    sizes = {
        name: max(float(np.linalg.norm(analytic[name])), abs(along[name][1]))
        for name in along
        if are_real[name]
    }
    smallest = SMALLEST_SHARE * max(sizes.values(), default=0.0)
    errors = {}
    for name, (found, expected) in along.items():
        size = max(sizes.get(name, 0.0), smallest) or 1.0
        errors[name] = float(abs(found - expected)) / size if are_real[name] else float("inf")
    return errors
