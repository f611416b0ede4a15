"""Linear map, fused where memory is what limits it. Derivation and signatures: `xplm.kernels.linear`.

Up to MAX_ROWS rows, weights are widened in registers on their way from memory (`xplm_numpy.gemv` has the bytes and
FLOPs). Beyond, BLAS computes, in float32 (`xplm_numpy.blas`); backward it always does, 4 N C FLOPs a row. Forward,
narrow weights are widened a block of rows at a time, into a buffer that is still in cache when BLAS reads it: 2 N C
bytes from memory, where a widened copy of the matrix would cost 10 N C.
"""

import numpy as np
from numba import prange

from xplm.kernels import linear as portable
from xplm.kernels.linear import LinearSaved
from xplm_numpy.blas import product
from xplm_numpy.gemv import count_blocks, count_rows, multiply, row_of, with_bias
from xplm_numpy.jit import parallel
from xplm_numpy.narrow import FLOAT32, bias_bits, bits, narrow, takes, widen_rows
from xplm_numpy.whole import narrowed, widen_into, widened

MAX_ROWS = 16
"""Where BLAS overtakes."""

BLOCK_NUMBERS = 2**20
"""Weights that are widened at a time: 4 MiB."""


def linear_fwd(x, weight, bias=None):
    N, C = weight.shape
    is_float32 = x.dtype == weight.dtype == FLOAT32 and bias is None
    has_few_rows = x.size <= MAX_ROWS * C
    is_for_blas = is_float32 and not has_few_rows
    if not is_for_blas and not (_is_dense(weight) and takes(x, weight, bias)):
        return portable.linear_fwd(x, weight, bias)

    y = np.empty((*x.shape[:-1], N), x.dtype)
    out = bits(y).reshape(-1, N)
    stored = bits(weight) if _is_dense(weight) else weight  # BLAS reads a transpose where it lies
    if has_few_rows:
        _multiply(bits(x).reshape(-1, C), stored, bias_bits(bias, weight), out)
    elif is_for_blas:
        _product(widened(x).reshape(-1, C), stored, out)
    else:
        sums = np.empty(out.shape, np.float32)
        _product(widened(x).reshape(-1, C), stored, sums)
        _store(sums, bias_bits(bias, weight), out)
    return y, LinearSaved(x, weight, bias)


def linear_bwd(dy, saved):
    x, weight, bias = saved
    if not _is_dense(weight) or not takes(dy, x, weight):
        return portable.linear_bwd(dy, saved)

    N, C = weight.shape
    rows, dy = widened(x).reshape(-1, C), widened(dy).reshape(-1, N)

    # y = x @ weight^T + bias
    dx = product(dy, widened(weight), np.empty(rows.shape, np.float32))
    dweight = product(dy.T, rows, np.empty((N, C), np.float32))
    dbias = None if bias is None else np.sum(dy, axis=0)
    return narrowed(dx.reshape(x.shape), x.dtype), dweight, dbias


def _is_dense(weight):
    """Whether rows lie in a row: not those of a transpose, which are scattered in memory."""
    return weight.flags.c_contiguous


@parallel()
def _multiply(x, weight, bias, y):
    B, N = y.shape
    rows = widen_rows(x)
    sums = np.empty((B, N), np.float32)
    for unsigned in prange(count_blocks(weight)):
        block = np.int64(unsigned)
        multiply(rows, weight, block, sums)
        for i in range(count_rows(N, block)):
            n = row_of(N, block, i)
            for b in range(B):
                y[b, n] = narrow(with_bias(sums, bias, b, n), y)


def _product(x, weight, y):
    """y = x @ weight^T, of rows (R, C) in float32 and a matrix (N, C) as stored; y (R, N) float32."""
    if weight.dtype == FLOAT32:
        product(x, weight.T, y)
        return

    N, C = weight.shape
    step = min(N, max(1, BLOCK_NUMBERS // C))
    buffer = np.empty((step, C), np.float32)
    for begin in range(0, N, step):
        block = buffer[: min(step, N - begin)]
        widen_into(weight[begin : begin + step], block)
        product(x, block.T, y[:, begin : begin + step])


@parallel()
def _store(sums, bias, y):
    R, N = y.shape
    for r in prange(R):
        for n in range(N):
            y[r, n] = narrow(with_bias(sums, bias, r, n), y)
