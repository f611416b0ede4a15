"""How the fused kernels are compiled.

A kernel's inner loop is a function of NumPy arrays that numba compiles for this machine at its first call and that is
kept on disk (`xplm_numpy.kernel_cache`). Sums of a backward pass may be reassociated, so that they fill vector
registers; NaN and infinity keep their meaning. The order of a sum depends on its length alone: work is cut into blocks
of a fixed size and not by threads, so a result is the same, bit for bit, from run to run and for any number of threads.
What inference computes is rounded as it is written (`exact`), its sums in an order of their own (`xplm_numpy.dot`), so
that a row's bits do not depend on the loop that it is computed in either.

A function that a kernel calls is compiled into it, always. Left to itself, LLVM calls a large one, and then the kernel
runs that function as another process compiled it or as this one did, whichever was loaded first: sums in another order.
"""

from collections.abc import Callable
from typing import Any

import numba

from xplm_numpy.compiler import COMPILER
from xplm_numpy.launch import launched

FAST = {"reassoc", "contract", "nsz", "arcp"}
"""What may change about float arithmetic: everything but NaN, infinity and approximate functions."""


def serial(*, is_kernel: bool = False, **options: Any) -> Callable[..., Any]:
    """A loop for one thread: what is small, or called from inside another; a kernel, if Python calls it."""
    usual: dict[str, Any] = {"fastmath": FAST, "error_model": "numpy", "forceinline": True}

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(**usual | options)(function)
        COMPILER.add(dispatcher, is_kernel=is_kernel)
        return dispatcher

    return decorate


def exact() -> Callable[..., Any]:
    """A loop or a function whose operations are rounded as they are written, in every copy that is made of it."""
    return serial(fastmath=False)


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
    options = {"prange": True} | dict.fromkeys(others, False)
    compiled = serial(is_kernel=True, parallel=options)
    return lambda function: launched(compiled(function))
