"""What tests compare with, and by how much they may differ."""

from typing import Any, NamedTuple

import numpy as np
from array_api_compat import device

from xplm.backend import Backend
from xplm.namespace import array_namespace
from xplm.precision import HOST_DTYPES
from xplm.typing import Array

UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""The most that rounding to nearest changes a number by, relative to it: half of eps."""

SMALLEST = {"float64": 0.0, "float32": 0.0, "float16": 2.0**-25, "bfloat16": 0.0}
"""The most that rounding changes a number too small for a relative bound: float16 underflows within tests' range."""


class Place(NamedTuple):
    """A backend and one of its dtypes: what a kernel is tested on."""

    backend: Backend
    dtype: str  # array-API name

    @property
    def wide(self) -> str:
        """The dtype that a kernel's statistics run in unless told otherwise."""
        return "float64" if self.dtype == "float64" else "float32"

    def array(self, host: Any, dtype: str | None = None) -> Array:
        """`host` rounded to `dtype` (the place's own where none is given), on the backend's device."""
        rounded = np.asarray(host, np.float64).astype(HOST_DTYPES[dtype or self.dtype])
        return self.backend.from_host(frozen(rounded))

    def ids(self, host: Any) -> Array:
        """Integers on the backend's device."""
        return self.backend.from_host(frozen(np.asarray(host, np.int64)))


def frozen(host: np.ndarray) -> np.ndarray:
    """A copy that raises on a write."""
    host = host.copy()
    host.flags.writeable = False
    return host


def to_numpy(backend: Backend, array: Array) -> np.ndarray:
    """An array as float64 (or as it is, where it is not a float), on the host."""
    host = backend.to_host(array)
    return host.astype(np.float64) if host.dtype in HOST_DTYPES.values() else host


def pure(backend: Backend, kernel: Any, *arrays: Array | None, **options: Any) -> Any:
    """kernel(*arrays, **options), once it is shown that no argument was written to.

    NumPy arrays are made read-only, so that a write raises where it happens; elsewhere the values are compared.
    """
    given = [array for array in arrays if array is not None]
    before = [to_numpy(backend, array) for array in given]
    for array in given:
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
    result = kernel(*arrays, **options)
    for array, host in zip(given, before, strict=True):
        np.testing.assert_array_equal(to_numpy(backend, array), host)
    return result


def rounding_bound(
    dtype: str, *, terms: int, magnitude: Any, roundings: int = 1, wide: str | None = None
) -> Any:
    """The most that a kernel's result may differ from the exact one.

    A sum of n terms in a dtype of unit roundoff u is off by at most n u sum|terms| (Higham, "Accuracy and Stability of
    Numerical Algorithms", section 4.2), whatever their order; the result is then rounded to `dtype`, `roundings` times.
    The constant 2 covers the few operations beside the sum.

    Args:
        dtype: of the result.
        terms: n, the length of the longest sum, with a few more for each exponential or root beside it.
        magnitude: sum|terms|, or a bound of it; an array or a number.
        roundings: how often a value is rounded to `dtype` on its way out.
        wide: dtype of the sum; float32, or float64 for float64, where none is given.
    """
    wide = wide or ("float64" if dtype == "float64" else "float32")
    relative = roundings * UNIT_ROUNDOFF[dtype] + 2 * terms * UNIT_ROUNDOFF[wide]
    return np.abs(magnitude) * relative + SMALLEST[dtype]


def assert_on(backend: Backend, actual: Array, *, dtype: str, shape: tuple[int, ...]) -> None:
    """An array's namespace, device, dtype and shape are these."""
    name = backend.xp.__name__
    assert array_namespace(actual).__name__ == name
    assert device(actual) == backend.device
    assert actual.dtype == backend.dtypes[dtype], (actual.dtype, dtype)
    assert tuple(actual.shape) == shape


def assert_close(
    backend: Backend, actual: Array, expected: np.ndarray, *, dtype: str, bound: Any
) -> None:
    """An array is on the backend, has the dtype, and is within `bound` of the expected values everywhere."""
    expected = np.asarray(expected, np.float64)
    assert_on(backend, actual, dtype=dtype, shape=expected.shape)
    host = to_numpy(backend, actual)
    same_infinity = np.isinf(expected) & (host == expected)
    difference = np.where(same_infinity, 0.0, np.abs(host - np.where(same_infinity, 0, expected)))
    excess = np.max(difference - bound, initial=-np.inf)
    assert excess <= 0, f"off by {np.max(difference):.3g}, which is {excess:.3g} above the bound"
