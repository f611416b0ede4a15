"""Memory that arrays give back stays with the process for the next ones.

A training step makes and drops the same arrays as the step before. The C library hands large ones back to the system,
which then has to find and clear every page of their successors: a tenth of a step. Told not to, it reuses them; an
array is as much its holder's own as before.

Weights are read faster from huge pages, for a processor looks up one address where it would look up 512, and foresees
reading up to a page's end only. NumPy asks the system for them, but for arrays of 4 MiB and more alone; a matrix of a
small model is less. `reserve` makes arrays that large and gives them back: the memory keeps what was asked for it.
"""

import ctypes
import sys

import numpy as np

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h
LARGEST_KEPT = (2**26, 2**25)
"""Bytes of an array from which on it goes back to the system, as large as the C library takes: older ones stop earlier.
"""

MOST_KEPT = 2**31 - 1
"""Bytes at the end of its memory that the C library gives back no more; it takes no larger number."""


def keep_freed_memory() -> None:
    """Have the C library keep what is freed, where it is one that can be told."""
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and any(mallopt(M_MMAP_THRESHOLD, largest) for largest in LARGEST_KEPT):
        mallopt(M_TRIM_THRESHOLD, MOST_KEPT)
        mallopt(M_ARENA_MAX, 1)  # what one thread frees, all may use


def reserve(n_bytes: int) -> None:
    """Have huge pages ready for arrays of so many bytes together, as far as freed memory stays.

    No memory is taken before it is written to.
    """
    size = min(LARGEST_KEPT) // 2
    n_blocks = min(-(-n_bytes // size), MOST_KEPT // size - 1)
    blocks = [np.empty(size, np.uint8) for _ in range(n_blocks)]
    blocks.clear()
