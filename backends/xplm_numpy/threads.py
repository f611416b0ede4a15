"""How long the kernels' threads stay awake for the next kernel.

GNU's OpenMP, which numba's threads are by default on Linux, lets them spin for many milliseconds: beside another
program, or a BLAS with threads of its own, that takes the processor from whoever has work. Not at all, and each kernel
first waits for a thread to wake up, which decoding does a hundred times a token. They are told to spin for about half
a millisecond.
"""

import os
from contextlib import suppress
from importlib import import_module

VARIABLE = "GOMP_SPINCOUNT"
SPINS = "10000"


def spin_briefly() -> None:
    """Load GNU's OpenMP, which reads its environment in that moment alone; what the user has set there stays."""
    is_free = VARIABLE not in os.environ and "OMP_WAIT_POLICY" not in os.environ
    if is_free:
        os.environ[VARIABLE] = SPINS
    try:
        with suppress(ImportError):  # numba has other threads on other systems
            import_module("numba.np.ufunc.omppool")
    finally:
        if is_free:
            del os.environ[VARIABLE]
