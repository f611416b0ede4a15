"""How the fused kernels are compiled.

A kernel's inner loop is a function of NumPy arrays that numba compiles for this machine at its first call and keeps on
disk. Sums may be reassociated, so that they fill vector registers; NaN and infinity keep their meaning. The order of a
sum depends on its length alone: work is cut into blocks of a fixed size and not by threads, so a result is the same,
bit for bit, from run to run and for any number of threads.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numba

FAST = {"reassoc", "contract", "nsz", "arcp"}
"""What may change about float arithmetic: everything but NaN, infinity and approximate functions."""

serial: Callable[..., Any] = partial(numba.njit, fastmath=FAST, error_model="numpy", cache=True)
"""A loop for one thread: what is small, or called from inside another."""

exact: Callable[..., Any] = partial(
    numba.njit, fastmath={"contract"}, error_model="numpy", cache=True
)
"""A loop or a function in which the order of operations is the point: nothing is reassociated."""


def parallel() -> Callable[..., Any]:
    """A loop whose `prange` runs on all threads; nothing else of it does, and no two such loops become one."""
    others = (
        "comprehension",
        "reduction",
        "inplace_binop",
        "setitem",
        "numpy",
        "stencil",
        "fusion",
    )
    return serial(parallel={"prange": True} | dict.fromkeys(others, False))
