"""How loops over numbers and over rows are cut up: by size, never by the number of threads."""

import numpy as np

from xplm_numpy.jit import serial

BLOCK = 2**14
"""Numbers that one thread takes at a time. What is not more than that is not worth a second thread."""


@serial()
def block_of(b, size, n):
    """Where block b of n things begins and ends; b is unsigned in a parallel loop, and signed elsewhere."""
    begin = np.int64(b) * size
    return begin, min(n, begin + size)
