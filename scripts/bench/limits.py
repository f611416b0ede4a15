"""What the machine itself gives, measured as one more system that takes turns.

bandwidth   float32 numbers summed from an array that no cache holds, by all threads: bytes a second
product     a float32 matrix product by NumPy's BLAS, 2 n^3 operations: FLOP a second
"""

from collections.abc import Callable
from time import perf_counter, sleep
from typing import Any

import numba
import numpy as np

from bench.blas import describe_blas

STREAM_BYTES = 2**29  # larger than the last cache of any machine
BLOCKS = 256
PRODUCT_WIDTH = 2048
REPEATS = 3
"""The best of these: a limit is what is given when nothing interferes."""

REST_SECONDS = 0.1
"""OpenMP's and BLAS's threads spin for tens of milliseconds once they are done."""


@numba.njit(parallel=True, fastmath=True)
def sum_blocks(blocks: np.ndarray, sums: np.ndarray) -> None:
    """Read blocks (N, M) once, by four streams a thread, which memory gives more than one; sums (N / 4,)."""
    quarter = len(blocks) // 4
    for i in numba.prange(quarter):
        total = np.float32(0.0)
        for j in range(blocks.shape[1]):
            half = blocks[i, j] + blocks[i + quarter, j]
            total += half + (blocks[i + 2 * quarter, j] + blocks[i + 3 * quarter, j])
        sums[i] = total


def make_limits(options: dict[str, Any]) -> tuple[str, Callable[[Any], dict[str, float]]]:
    """What to call it, and how to measure: any request gives both limits."""
    blocks = np.ones((BLOCKS, STREAM_BYTES // 4 // BLOCKS), np.float32)
    sums = np.empty(BLOCKS // 4, np.float32)
    square = np.full((PRODUCT_WIDTH, PRODUCT_WIDTH), 0.5, np.float32)
    product = np.empty_like(square)
    sum_blocks(blocks[:, :1].copy(), sums)  # compiles

    def measure(request: Any) -> dict[str, float]:
        stream = best_seconds(lambda: sum_blocks(blocks, sums))
        multiply = best_seconds(lambda: np.matmul(square, square, out=product))
        return {
            "bytes_per_s": STREAM_BYTES / stream,
            "flop_per_s": 2 * PRODUCT_WIDTH**3 / multiply,
        }

    return f"numba {numba.__version__}; {describe_blas()}", measure


def best_seconds(run: Callable[[], object]) -> float:
    """The shortest of a few runs, each once the threads of what ran before have gone to sleep."""
    seconds = []
    for _ in range(REPEATS):
        sleep(REST_SECONDS)
        started = perf_counter()
        run()
        seconds.append(perf_counter() - started)
    return min(seconds)
