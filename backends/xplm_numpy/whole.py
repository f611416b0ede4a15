"""Whole arrays of float16 and bfloat16 to float32 and back, for kernels that are compiled in float32 alone.

Bytes of a number: 6, two of them as stored.
"""

import numpy as np
from numba import prange

from xplm_numpy.jit import parallel
from xplm_numpy.narrow import FLOAT32, bits, narrow, widen


def widened(array):
    """A dense array in float32; itself, where it is that."""
    if array.dtype == FLOAT32:
        return bits(array)
    wide = np.empty(array.shape, np.float32)
    stored = bits(array)
    widen_into(stored.reshape(-1, array.shape[-1]), wide.reshape(-1, array.shape[-1]))
    return wide


def narrowed(wide, dtype):
    """A dense float32 array rounded to a dtype; itself, where that is float32."""
    if dtype == FLOAT32:
        return wide
    array = np.empty(wide.shape, dtype)
    narrow_into(wide.reshape(-1, wide.shape[-1]), bits(array).reshape(-1, wide.shape[-1]))
    return array


@parallel()
def widen_into(stored, wide):
    """float32 (R, C) from what is stored (R, C)."""
    R, C = stored.shape
    for r in prange(R):
        for c in range(C):
            wide[r, c] = widen(stored[r, c])


@parallel()
def narrow_into(wide, stored):
    """What is stored (R, C) from float32 (R, C)."""
    R, C = wide.shape
    for r in prange(R):
        for c in range(C):
            stored[r, c] = narrow(wide[r, c], stored)
