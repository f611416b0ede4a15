"""Products of matrices, by the library that is asked for, or by the one that was found to be the fastest.

    with use_blas("mkl"):
        product(a, b, out)          # out = a @ b

NumPy's own product runs where it is asked for, where no library is found, and for operands that a library cannot read
where they lie or whose dtype it lacks: on threads of its own, so that the result may depend on their number.
"""

import logging
from functools import cache

import numba
import numpy as np

from xplm.blas import ProductRate
from xplm.precision import HOST_DTYPES
from xplm_numpy import choice
from xplm_numpy.gemm import multiply
from xplm_numpy.libraries import BFLOAT16, FLOAT16, FLOAT32, NUMPY, Library, asked, find_library

logger = logging.getLogger(__name__)


def product(a, b, out, *, is_added=False):
    """out = a @ b, or out += a @ b; returns out, which overlaps neither.

    Args:
        a: (M, K), a transpose or a slice as it is; float32, or a dtype that `has_product`.
        b: (K, N), of the same dtype.
        out: (M, N) float32.
        is_added: whether out is added to.

    Raises:
        ValueError: the shapes do not fit, or out is read-only.
    """
    if a.dtype == b.dtype and out.dtype == FLOAT32:
        library = library_for(a.dtype)
        if library is not None and multiply(library, a, b, out, is_added=is_added):
            return out
    if out.dtype == FLOAT32:
        a, b = (operand.astype(np.float32, copy=False) for operand in (a, b))
    return np.add(out, np.matmul(a, b), out=out) if is_added else np.matmul(a, b, out=out)


def has_product(*arrays):
    """Whether these have one dtype, and it is multiplied as it is stored."""
    dtype = arrays[0].dtype
    return all(array.dtype == dtype for array in arrays) and library_for(dtype) is not None


def multiply_narrow(a, b, name):
    """a @ b (M, N) in float32, of matrices whose numbers are those of the dtype `name`; None: by no product."""
    dtype = HOST_DTYPES.get(name)
    if dtype not in (BFLOAT16, FLOAT16) or library_for(dtype) is None:
        return None
    out = np.empty((len(a), b.shape[1]), np.float32)
    return product(a.astype(dtype), b.astype(dtype), out)


def library_for(dtype: np.dtype) -> Library | None:
    """The library that multiplies operands of a dtype as they are stored; None: NumPy does, or they are widened."""
    name = asked()
    if name is None:
        library = choice.chosen(dtype)
        if library is None and dtype == FLOAT32:
            _tell_of_numpy()
        return library
    if name == NUMPY:
        return None
    library = find_library(name)
    return library if choice.multiplies(library, dtype) else None


def product_rates() -> list[ProductRate]:
    """What each way gives, as it was measured for the choice; or what the library gives that is asked for."""
    name = asked()
    threads = numba.get_num_threads()
    if name is None and choice.libraries():
        threads, found, _ = choice.measured()
    elif name in (None, NUMPY):
        found = {FLOAT32.name: choice.best({NUMPY: (FLOAT32, _by_numpy)})}
    else:
        found = choice.measure([find_library(name)])
    return [
        _rate(dtype, way, rate, threads)
        for dtype, ways in found.items()
        for way, rate in ways.items()
    ]


def _rate(name: str, way: str, flop_per_s: float, threads: int) -> ProductRate:
    dtype = HOST_DTYPES[name]
    taken = library_for(dtype)
    if way in (NUMPY, choice.WIDENED):
        return ProductRate(name, way, way, flop_per_s, threads, is_chosen=taken is None)
    library = find_library(way)
    flushes = dtype != FLOAT32 and choice.flushes_subnormals(library, dtype)
    is_chosen = taken is not None and taken.name == library.name
    return ProductRate(name, way, library.version, flop_per_s, threads, is_chosen, flushes)


def _by_numpy(x, weight, out):
    np.matmul(x, weight.T, out=out)


@cache
def _tell_of_numpy() -> None:
    logger.warning(
        "NumPy's BLAS is not its wheels' OpenBLAS: large products start threads of its own"
    )
