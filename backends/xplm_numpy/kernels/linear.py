"""Linear map, fused where memory is what limits it. Derivation and signatures: `xplm.kernels.linear`.

Up to MAX_ROWS rows, weights are widened in registers on their way from memory (`xplm_numpy.gemm_by_rows` has the bytes
and FLOPs). Beyond, BLAS computes (`xplm_numpy.blas`); backward it always does, 4 N C FLOPs a row. Where it multiplies
16-bit operands as they are stored, all three products are its own, and each result is rounded once. Elsewhere it
computes in float32, and narrow weights are widened a block of rows at a time, into a buffer that is still in cache when
BLAS reads it: 2 N C bytes from memory, where a widened copy of the matrix would cost 10 N C.
"""

import numpy as np
from numba import prange

from xplm.kernels import linear as portable
from xplm.kernels.linear import LinearSaved
from xplm_numpy.blas import has_product, product
from xplm_numpy.gemm_by_rows import multiply_rows
from xplm_numpy.gemv import with_bias
from xplm_numpy.jit import parallel
from xplm_numpy.narrow import FLOAT32, bias_bits, bits, dense, narrow, takes
from xplm_numpy.whole import narrowed, widen_into, widened

MAX_ROWS = 48
"""Where BLAS overtakes."""

MAX_ROWS_NARROW = 16
"""Where it does with instructions for 16-bit numbers."""

BLOCK_NUMBERS = 2**20
"""Weights that are widened at a time: 4 MiB."""


def linear_fwd(x, weight, bias=None):
    N, C = weight.shape
    is_float32 = x.dtype == weight.dtype == FLOAT32 and bias is None
    has_few_rows = x.size <= _most_rows(x, weight) * C
    is_for_blas = is_float32 and not has_few_rows
    if not is_for_blas and not (_is_dense(weight) and takes(x, weight, bias)):
        return portable.linear_fwd(x, weight, bias)

    y = np.empty((*x.shape[:-1], N), x.dtype)
    out = bits(y).reshape(-1, N)
    if has_few_rows:
        multiply_rows(widened(x).reshape(-1, C), bits(weight), bias_bits(bias, weight), out)
    elif is_for_blas:
        project(dense(x).reshape(-1, C), weight, out)
    else:
        sums = np.empty(out.shape, np.float32)
        project(operand(x, weight).reshape(-1, C), weight, sums)
        store(sums, bias_bits(bias, weight), out)
    return y, LinearSaved(x, weight, bias)


def linear_bwd(dy, saved, *, is_frozen=False):
    x, weight, bias = saved
    if not _is_dense(weight) or not takes(dy, x, weight):
        return portable.linear_bwd(dy, saved, is_frozen=is_frozen)

    N, C = weight.shape
    operands = (dy, weight) if is_frozen else (dy, x, weight)
    in_dtype = dense if has_product(*operands) else widened
    drows = in_dtype(dy).reshape(-1, N)

    # y = x @ weight^T + bias
    dx = project_back(drows, weight, np.empty((len(drows), C), np.float32))
    dx = narrowed(dx.reshape(x.shape), x.dtype)
    if is_frozen:
        return dx, None, None
    rows = in_dtype(x).reshape(-1, C)
    dweight = product(drows.T, rows, np.empty((N, C), np.float32))
    dbias = None if bias is None else np.sum(widened(drows), axis=0)
    return dx, dweight, dbias


def operand(x, weight):
    """x, dense: as it is stored, where a product of both is, or in float32."""
    return dense(x) if has_product(x, weight) else widened(x)


def _most_rows(x, weight):
    """Up to how many rows x is not left to BLAS."""
    is_narrow_product = x.dtype != FLOAT32 and has_product(x, weight)
    return MAX_ROWS_NARROW if is_narrow_product else MAX_ROWS


def _is_dense(weight):
    """Whether rows lie in a row: not those of a transpose, which are scattered in memory."""
    return weight.flags.c_contiguous


def project(x, weight, y):
    """y = x @ weight^T, of rows (R, C) and a matrix (N, C) as `operand` has them; y (R, N) float32."""
    for rows, block in _blocks(weight, x.dtype):
        product(x, block.T, y[:, rows])
    return y


def project_back(dy, weight, dx):
    """dx = dy @ weight, of rows (R, N) and a matrix (N, C) as `operand` has them; dx (R, C) float32."""
    for rows, block in _blocks(weight, dy.dtype):
        product(dy[:, rows], block, dx, is_added=rows.start > 0)
    return dx


def _blocks(weight, dtype):
    """The rows of a matrix (N, C) in a dtype: whole, where it has that, or as many at a time as a cache holds."""
    N, C = weight.shape
    if weight.dtype == dtype:
        # A transpose is read where it is; rows with gaps are copied, for MKL's bits depend on gaps.
        is_read_in_place = dtype == FLOAT32 and weight.flags.f_contiguous
        yield slice(0, N), weight if is_read_in_place else dense(weight)
        return

    step = max(1, min(N, BLOCK_NUMBERS // max(1, C)))
    buffer = np.empty((step, C), np.float32)
    stored = bits(weight)
    for begin in range(0, N, step):
        rows = slice(begin, min(begin + step, N))
        block = buffer[: rows.stop - begin]
        widen_into(stored[rows], block)
        yield rows, block


@parallel()
def store(sums, bias, y):
    """y = sums + bias, rounded as y is stored.   sums and y (R, N), which may be one array; bias (N,), or empty"""
    R, N = y.shape
    for r in prange(R):
        for n in range(N):
            y[r, n] = narrow(with_bias(sums[r], bias, n), y)
