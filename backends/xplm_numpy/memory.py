"""Huge pages for weights, in a process that keeps freed memory (`xplm.cli.process`).

Weights are read faster from huge pages: a processor translates one address instead of 512, and its prefetching stops
at the end of a page. NumPy requests huge pages only for arrays of 4 MiB and more; a matrix of a small model is smaller.
`reserve` allocates arrays of that size and frees them: the memory keeps the request.
"""

import numpy as np

BLOCK = 2**24
"""Bytes of an array: below the size that goes back to the system when it is freed."""

MOST_RESERVED = 2**31 - 1
"""Bytes: a process keeps no more."""


def reserve(n_bytes: int) -> None:
    """Have huge pages ready for arrays of so many bytes together, as far as freed memory stays.

    No memory is taken before it is written to.
    """
    n_blocks = min(-(-n_bytes // BLOCK), MOST_RESERVED // BLOCK - 1)
    blocks = [np.empty(BLOCK, np.uint8) for _ in range(n_blocks)]
    blocks.clear()
