"""`--threads`: libraries read their number of threads from the environment, once, when they are first loaded.

One number is given to all of them: of BLAS and the fused kernels one works at a time.
"""

import os
import sys

VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
)


def use_threads(threads: int | None) -> int | None:
    """Have this very command run under a number of threads.

    By the time that the flag is read NumPy has been imported, so where the environment says otherwise it is set, and
    the process starts itself again in its own place.
    """
    if threads is None or all(os.environ.get(name) == str(threads) for name in VARIABLES):
        return threads
    environment = os.environ | dict.fromkeys(VARIABLES, str(threads))
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
