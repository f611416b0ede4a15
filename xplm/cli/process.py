"""Settings of a process that does nothing but compute with xplm. The `xplm` command makes them; a script may.

    from xplm.cli.process import tune_process
    tune_process()      # first: before NumPy and xplm are imported

Freed memory stays with the process. A training step makes and drops the same arrays as the step before. The C library
hands large ones back to the system, which then has to find and clear every page of their successors: a tenth of a
step. Told not to, it reuses them.

Threads of GNU's OpenMP, which numba's kernels run on by default on Linux, wait for the next kernel for half a
millisecond. By default they spin for many, and take the processor from BLAS or another program. Without any spinning
each kernel first waits for a thread to wake up, a hundred times a token. OpenMP reads this from the environment when it
is loaded; child processes inherit it.

A library must do neither: both hold for the whole process, whatever else it runs.
"""

import ctypes
import os
import sys

SPIN = ("GOMP_SPINCOUNT", "10000")

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h
LARGEST_KEPT = (2**26, 2**25)
"""Bytes from which on an array goes back to the system. glibc takes the first of these, older versions the second."""

MOST_KEPT = 2**31 - 1
"""Bytes at the end of the heap that glibc gives back no more; it takes no larger number."""


def tune_process() -> None:
    """Keep freed memory, and let OpenMP's threads spin briefly; a GOMP_SPINCOUNT that is set stays. Linux only."""
    if not sys.platform.startswith("linux"):
        return
    os.environ.setdefault(*SPIN)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None and any(mallopt(M_MMAP_THRESHOLD, largest) for largest in LARGEST_KEPT):
        mallopt(M_TRIM_THRESHOLD, MOST_KEPT)
        mallopt(M_ARENA_MAX, 1)  # what one thread frees, all may use
