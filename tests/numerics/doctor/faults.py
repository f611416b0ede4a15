"""Faults of array libraries, to inject into a working one: each as a release of some library has it, or might.

A fault is a function's stand-in: it gets the function, and the arguments that were meant for it, as NumPy's arrays.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np

from xplm.backend import Backend
from xplm.emulation.namespace import EmulatedNamespace
from xplm.numerics.doctor.watch import NOTHING, through

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT16 = np.dtype(np.float16)
HALVES = (BFLOAT16, FLOAT16)
FLOATS = (np.dtype(np.float32), *HALVES)

Fault = Callable[..., Any]
"""(function, *arguments, **options) -> what the library gives instead."""


class FaultyNamespace(EmulatedNamespace):
    """A namespace, some of whose functions and operators are replaced by name: "matmul", "sum", "mul", "astype"."""

    def __init__(self, backend: Backend, faults: Mapping[str, Fault]) -> None:
        super().__init__(backend.xp, NOTHING)
        self._backend, self._faults = backend, faults

    def apply(self, function: Any, *args: Any, moves: bool = False, **options: Any) -> Any:
        options = {name: self.inside(option) for name, option in options.items()}
        result = function
        for name in ("any function", function.__name__):
            if name in self._faults:
                result = self._behind(self._faults[name], result)
        return self.wrap(result(*self.inside(args), **options))

    def matmul(self, a: Any, b: Any, /) -> Any:
        return self.apply(self._xp.matmul, a, b)

    def astype(self, x: Any, dtype: Any, /, *, copy: bool = True) -> Any:
        return self.apply(self._xp.astype, x, dtype)

    def _behind(self, fault: Fault, function: Any) -> Any:
        """The fault in the function's place, with NumPy's arrays as its arguments."""

        def on_host(*args: Any, **options: Any) -> Any:
            return self._to_host(function(*[self._to_device(arg) for arg in args], **options))

        on_host.__name__ = function.__name__

        def stand_in(*args: Any, **options: Any) -> Any:
            return self._to_device(fault(on_host, *[self._to_host(arg) for arg in args], **options))

        stand_in.__name__ = function.__name__
        return stand_in

    def _to_host(self, value: Any) -> Any:
        is_array = hasattr(type(value), "__array_namespace__") or isinstance(value, np.generic)
        return self._backend.to_host(value) if is_array else value

    def _to_device(self, value: Any) -> Any:
        is_array = isinstance(value, np.ndarray | np.generic)
        return self._backend.from_host(np.asarray(value)) if is_array else value


def inject(backend: Backend, faults: Mapping[str, Fault], **fields: Any) -> Backend:
    """A backend with faults in its functions, and in fields of its own."""
    return replace(through(backend, FaultyNamespace(backend, faults)), **fields)


def batched_bfloat16_raises(matmul, a, b):
    """CuPy 14.2."""
    if BFLOAT16 in (a.dtype, b.dtype) and max(a.ndim, b.ndim) > 2:
        raise TypeError(f"Unsupported dtype {BFLOAT16}")
    return matmul(a, b)


def wrong_product(matmul, a, b):
    y = matmul(a, b)
    return y + np.ones((), y.dtype) if a.dtype == FLOAT16 else y


def narrow_sums(matmul, a, b):
    """Partial sums of 16-bit products are 16-bit."""
    y = matmul(a, b)
    if a.dtype not in HALVES:
        return y
    total = np.zeros(y.shape, a.dtype)
    for k in range(a.shape[-1]):
        total = (total + a[..., k : k + 1] * b[..., k : k + 1, :]).astype(a.dtype)
    return total.astype(y.dtype)


def tf32_operands(matmul, a, b):
    if a.dtype != np.float32:
        return matmul(a, b)
    return matmul(*[(x.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32) for x in (a, b)])


def product_in_float64(matmul, a, b):
    y = matmul(a, b)
    return y.astype(np.float64) if a.dtype == FLOAT16 else y


class Clock:
    """A time that only matrix products take."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def slow_in_float16(self, matmul, a, b):
        self.now += 100.0 if FLOAT16 in (a.dtype, b.dtype) else 1.0
        return matmul(a, b)

    def even(self, matmul, a, b):
        self.now += 1.0
        return matmul(a, b)


def drift_beside_a_number(operator, a, b):
    """A Python number counts as a float64 array."""
    result = operator(a, b)
    is_beside = isinstance(a, float) or isinstance(b, float)
    return result.astype(np.float64) if is_beside and result.dtype == FLOAT16 else result


def drift_through(function, x, **options):
    result = function(x, **options)
    return result.astype(np.float32) if x.dtype == FLOAT16 else result


def widened(function, *args, **options):
    """CuPy 14.2: bfloat16 through `where`, or beside a Python number, becomes float32."""
    result = function(*args, **options)
    is_drifting = function.__name__ == "where" or any(isinstance(arg, float) for arg in args)
    return result.astype(np.float32) if is_drifting and result.dtype == BFLOAT16 else result


def extreme_without_infinities(function, x, *, axis=None, **options):
    """A row with an infinity in it gives the finite number next to that."""
    y = function(x, axis=axis, **options)
    found = np.any(np.isinf(x), axis=axis, **options) & ~np.any(np.isnan(x), axis=axis, **options)
    limit = ml_dtypes.finfo(x.dtype).max
    return np.where(found, limit if function.__name__ == "min" else -limit, y).astype(x.dtype)


def argument_without_infinities(function, x, *, axis=-1):
    """A row with -inf in it gives a place behind its end: CuPy 11.5, where all of it is -inf."""
    hidden = np.any(np.isinf(x), axis=axis) & ~np.any(np.isnan(x), axis=axis)
    return np.where(hidden, x.shape[axis], function(x, axis=axis))


def last_of_equals(function, x, *, axis=-1):
    """PyTorch before 1.7."""
    return x.shape[axis] - 1 - function(np.flip(x, axis=axis), axis=axis)


def narrow_sum(function, x, *, axis=None, keepdims=False, **options):
    """Partial sums in float16."""
    if x.dtype != FLOAT16:
        return function(x, axis=axis, keepdims=keepdims, **options)
    total = np.add.accumulate(x, axis=-1, dtype=FLOAT16)[..., -1:]
    total = total if keepdims else total[..., 0]
    return total / FLOAT16.type(x.shape[-1]) if function.__name__ == "mean" else total


def clamped_take(take, x, indices, *, axis):
    """JAX before 0.4."""
    return take(x, np.minimum(indices, x.shape[axis] - 1), axis=axis)


def shifted_take(take, x, indices, *, axis):
    return take(x, np.where(indices == 299, 0, indices), axis=axis)


def unstable_argsort(argsort, x, *, descending=False, stable=True):
    """Equal numbers in the order opposite to theirs."""
    order = np.argsort(np.flip(-x if descending else x), stable=True)
    return x.shape[-1] - 1 - order


def flushed(function, *args, **options):
    """Below 2^-126 everything counts as zero, as an argument and as a result."""

    def flush(x):
        if getattr(x, "dtype", None) not in (np.dtype(np.float32), BFLOAT16):
            return x
        return np.where(np.abs(x) < x.dtype.type(2.0**-126), np.copysign(x.dtype.type(0.0), x), x)

    return flush(function(*[flush(arg) for arg in args], **options))


def nan_ignored(function, x, **options):
    ignoring = {"max": -np.inf, "min": np.inf, "argmax": -np.inf, "argmin": np.inf}
    seen = np.where(np.isnan(x), x.dtype.type(ignoring[function.__name__]), x)
    return function(seen, **options)


def bad_exp(exp, x):
    y = exp(x)
    return np.where(np.isinf(x), y.dtype.type(np.nan), y) if x.dtype == FLOAT16 else y


def truncating(astype, x, dtype):
    """float32 to bfloat16 by leaving bits out."""
    if x.dtype != np.float32 or dtype != BFLOAT16:
        return astype(x, dtype)
    return (np.ascontiguousarray(x).view(np.uint32) >> 16).astype(np.uint16).view(BFLOAT16)


def through_float32(astype, x, dtype):
    return astype(x.astype(np.float32), dtype) if dtype in HALVES else astype(x, dtype)


def inexact_widening(astype, x, dtype):
    y = astype(x, dtype)
    return y * y.dtype.type(1.0 + 2.0**-20) if x.dtype == FLOAT16 and dtype == np.float32 else y


def as_float32(to_host):
    """A transfer that knows no bfloat16."""
    return lambda array: (
        to_host(array).astype(np.float32) if array.dtype == BFLOAT16 else to_host(array)
    )
