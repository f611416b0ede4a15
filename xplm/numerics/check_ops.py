"""Every op's backward kernel against central differences, in float64."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from xplm.backend import Backend
from xplm.numerics.gradient_check import GradientError, numerical_gradient, relative_errors
from xplm.numerics.op_cases import OPS, OpCase, op_cases
from xplm.typing import Array


class OpRun(NamedTuple):
    """An op run forward and back on one case, on the host."""

    args: dict[str, np.ndarray]  # arrays by name; those left out are not in it
    y: np.ndarray
    dy: np.ndarray  # random, y's shape
    gradients: dict[str, np.ndarray]  # by argument
    differences: dict[str, np.ndarray]  # the same by central differences
    errors: list[GradientError]  # one a gradient


def check_op(
    backend: Backend, kernels: Mapping[str, Callable[..., Any]], name: str, *, seed: int = 0
) -> list[tuple[str, GradientError]]:
    """One op on each of its cases.

    Args:
        backend: where to compute; it must have float64.
        kernels: the table to take the op's pair from.
        name: the op's, one of OPS.
        seed: of the cases' numbers.

    Returns:
        (the case's label, error) for every gradient of every case.
    """
    return [
        (case.label, error)
        for case in op_cases(name, seed)
        for error in run_case(backend, kernels, name, case, seed=seed).errors
    ]


def run_case(
    backend: Backend,
    kernels: Mapping[str, Callable[..., Any]],
    name: str,
    case: OpCase,
    *,
    dy: np.ndarray | None = None,
    seed: int = 0,
) -> OpRun:
    """One op on one case, forward, back, and by differences of sum(y * dy).

    Args:
        backend: where to compute.
        kernels: the table to take the op's pair from.
        name: the op's.
        case: its arguments and options.
        dy: the gradient that comes in; None: random.
        seed: of that.
    """
    forward, backward = kernels[f"{name}_fwd"], kernels[f"{name}_bwd"]
    host = [None if array is None else array.copy() for array in case.args]
    row = OPS[name]
    options = {**case.options, **accepted(forward, case.tuning)}

    def run() -> tuple[Array, Any]:
        arrays = [None if array is None else backend.from_host(array) for array in host]
        return forward(*arrays, **options)

    y, saved = run()
    y = backend.to_host(y).copy()
    if dy is None:
        dy = np.random.default_rng(seed).standard_normal(y.shape)
    given = backward(backend.from_host(dy), saved, **accepted(backward, case.tuning))

    args = {
        arg: array for arg, array in zip(row.arguments, host, strict=False) if array is not None
    }
    gradients = {
        arg: backend.to_host(gradient)
        for arg, gradient in zip(row.arguments, given, strict=True)
        if arg in row.gradients and arg in args
    }

    def weighted_sum() -> float:
        return float(np.sum(backend.to_host(run()[0]) * dy))

    differences = {arg: numerical_gradient(weighted_sum, args[arg]) for arg in gradients}
    relative = relative_errors(gradients, differences)
    errors = [
        GradientError(arg, differences[arg].size, differences[arg].size, relative[arg])
        for arg in gradients
    ]
    return OpRun(args, y, dy, gradients, differences, errors)


def accepted(kernel: Callable[..., Any], tuning: Mapping[str, int]) -> dict[str, int]:
    """Sizes of chunks that this kernel has a say in; a fused one need not have any."""
    parameters = inspect.signature(kernel).parameters
    return {name: size for name, size in tuning.items() if name in parameters}
