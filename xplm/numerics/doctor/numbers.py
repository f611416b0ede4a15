"""Numbers on their way to an array library and back, and whether they are the right ones."""

from typing import Any

import ml_dtypes
import numpy as np

from xplm.backend import Backend
from xplm.precision import HOST_DTYPES
from xplm.typing import Array


def put(backend: Backend, values: Any, dtype: str) -> Array:
    """Numbers on the device in a dtype, rounded on the host, so that no cast of the library takes part."""
    return backend.from_host(np.asarray(values, np.float64).astype(HOST_DTYPES[dtype]))


def get(backend: Backend, array: Array) -> np.ndarray:
    """An array on the host, floats as float64."""
    host = backend.to_host(array)
    return host.astype(np.float64) if host.dtype in HOST_DTYPES.values() else host


def dtype_name(backend: Backend, array: Array) -> str:
    """The array-API name of an array's dtype."""
    names = [name for name, dtype in backend.dtypes.items() if array.dtype == dtype]
    return names[0] if names else str(array.dtype)


def first_wrong(found: np.ndarray, right: Any) -> str:
    """The first number that is not right, in words; "" where all are, NaN equal to NaN and -0 to 0."""
    right = np.asarray(right, np.float64)
    if found.shape != right.shape:
        return f"shape {found.shape} for {right.shape}"
    wrong = (found != right) & ~(np.isnan(found.astype(np.float64)) & np.isnan(right))
    if not wrong.any():
        return ""
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    return (
        f"{int(wrong.sum())} of {wrong.size} wrong: {float(found[at]):g} for {float(right[at]):g}"
    )


def bits(array: np.ndarray) -> np.ndarray:
    """The bit patterns of float16 or bfloat16 numbers."""
    return array.view(np.uint16)


def smallest_normal(dtype: str) -> float:
    """The smallest normal number of a dtype."""
    return float(ml_dtypes.finfo(HOST_DTYPES[dtype]).smallest_normal)
