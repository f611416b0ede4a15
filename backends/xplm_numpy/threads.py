"""How long the kernels' threads stay awake for the next kernel.

GNU's OpenMP, which numba's threads are by default on Linux, lets them spin for many milliseconds: beside another
program, or a BLAS with threads of its own, that takes the processor from whoever has work. Not at all, and each kernel
first waits for a thread to wake up, which decoding does a hundred times a token. They are told to spin for about half
a millisecond.
"""

import ctypes
import sys
from contextlib import suppress
from importlib import import_module

SPIN = (b"GOMP_SPINCOUNT", b"10000")


def spin_briefly() -> None:
    """Say so to GNU's OpenMP, which listens in the moment that it is loaded: unless the user has said otherwise."""
    if not sys.platform.startswith("linux"):
        return
    stays_as_set = 0
    ctypes.CDLL(None).setenv(*SPIN, stays_as_set)
    with suppress(ImportError):  # numba is missing, or was built without OpenMP
        import_module("numba.np.ufunc.omppool")
