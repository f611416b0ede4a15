"""Linear map of a few rows, fused. Derivation and signatures: `xplm.kernels.linear`.

Up to MAX_ROWS rows it is memory that limits a product, and narrow weights are widened in registers on their way from it
(`xplm_numpy.gemv` has the bytes and FLOPs). Beyond, BLAS computes, as in the portable kernel.
"""

import numpy as np
from numba import prange

from xplm.kernels import linear as portable
from xplm.kernels.linear import LinearSaved
from xplm_numpy.gemv import ROWS_PER_BLOCK, count_blocks, finish, multiply
from xplm_numpy.jit import parallel
from xplm_numpy.narrow import bias_bits, bits, narrow, takes, widen_rows

MAX_ROWS = 16
"""Where BLAS overtakes."""


def linear_fwd(x, weight, bias=None):
    N, C = weight.shape
    is_dense = weight.flags.c_contiguous  # else, as of a transpose, a row is scattered in memory
    if x.size > MAX_ROWS * C or not is_dense or not takes(x, weight, bias):
        return portable.linear_fwd(x, weight, bias)

    y = np.empty((*x.shape[:-1], N), x.dtype)
    _multiply(bits(x).reshape(-1, C), bits(weight), bias_bits(bias, weight), bits(y).reshape(-1, N))
    return y, LinearSaved(x, weight, bias)


@parallel()
def _multiply(x, weight, bias, y):
    B, N = y.shape
    rows = widen_rows(x)
    sums = np.empty((B, N), np.float32)
    for unsigned in prange(count_blocks(weight)):
        block = np.int64(unsigned)
        multiply(rows, weight, block, sums)
        begin = block * ROWS_PER_BLOCK
        for b in range(B):
            for n in range(begin, min(N, begin + ROWS_PER_BLOCK)):
                y[b, n] = narrow(finish(sums, bias, b, n, y), y)
