"""How the fused kernels are compiled.

A kernel's inner loop is a function of NumPy arrays that numba compiles for this machine at its first call and keeps on
disk (`xplm_numpy.kernel_cache`). Sums may be reassociated, so that they fill vector registers; NaN and infinity keep
their meaning. The order of a sum depends on its length alone: work is cut into blocks of a fixed size and not by
threads, so a result is the same, bit for bit, from run to run and for any number of threads.

What a kernel calls is compiled into it, always. Left to itself, LLVM calls what is large, and then the kernel runs that
function as another process compiled it or as this one did, whichever was loaded first: sums in another order.
Kernel and parts become machine code together (`xplm_numpy.whole_kernel`).
"""

from collections.abc import Callable
from typing import Any

import numba
from numba.core.compiler_lock import global_compiler_lock

from xplm_numpy.kernel_cache import KernelCache
from xplm_numpy.whole_kernel import adopt

FAST = {"reassoc", "contract", "nsz", "arcp"}
"""What may change about float arithmetic: everything but NaN, infinity and approximate functions."""


def serial(*, is_kernel: bool = False, **options: Any) -> Callable[..., Any]:
    """A loop for one thread: what is small, or called from inside another; a kernel, if Python calls it."""
    usual: dict[str, Any] = {"fastmath": FAST, "error_model": "numpy", "forceinline": True}
    compiled = numba.njit(**usual | options)

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher: Any = compiled(function)
        adopt(dispatcher)
        compile_or_load = dispatcher.compile

        def in_turn(signature: Any) -> Any:
            with global_compiler_lock:
                if not isinstance(
                    dispatcher._cache, KernelCache
                ):  # as numba.njit(cache=True) makes one at once
                    dispatcher._cache = KernelCache(function, is_kernel=is_kernel)
                try:
                    return compile_or_load(signature)
                finally:
                    dispatcher._cache.let_go()

        dispatcher.compile = in_turn
        return dispatcher

    return decorate


def exact() -> Callable[..., Any]:
    """A loop or a function in which the order of operations is the point: nothing is reassociated."""
    return serial(fastmath={"contract"})


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
    return serial(is_kernel=True, parallel={"prange": True} | dict.fromkeys(others, False))
