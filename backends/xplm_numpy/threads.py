"""How long the kernels' threads stay awake for the next kernel.

GNU's OpenMP, which numba's threads are by default on Linux, lets them spin for many milliseconds: beside another
program, or a BLAS with threads of its own, that takes the processor from whoever has work. Not at all, and each kernel
first waits for a thread to wake up, which decoding does a hundred times a token. They are told to spin for about half
a millisecond, in the only way that OpenMP has: a variable of the environment, which it reads as numba loads it. It is
set, never read, and children of this process are told the same.
"""

import ctypes
import sys

SPIN = (b"GOMP_SPINCOUNT", b"10000")


def spin_briefly() -> None:
    """Say so to GNU's OpenMP, before it is loaded; a GOMP_SPINCOUNT of the user's stays."""
    if sys.platform.startswith("linux"):
        stays_as_set = 0
        ctypes.CDLL(None).setenv(*SPIN, stays_as_set)
