"""Memory that arrays give back stays with the process for the next ones.

A training step makes and drops the same arrays as the step before. The C library hands large ones back to the system,
which then has to find and clear every page of their successors: a tenth of a step. Told not to, it reuses them; an
array is as much its holder's own as before.
"""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST_KEPT = 2**26
"""Bytes of an array from which on it goes back to the system: weights, but not activations."""


def keep_freed_memory() -> None:
    """Have the C library keep what is freed, where it is one that can be told."""
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
