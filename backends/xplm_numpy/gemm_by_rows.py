"""Products of many rows with a large matrix, each row's sums in the order that `xplm_numpy.gemv` gives them in.

    out = x @ weight^T          x (M, C), weight (N, C)

A unit of work is a few rows of weights by as many rows of x as a cache beside the core holds. Four rows of weights, a
chunk of each, are widened once and then meet all those rows of x, three at a time.

Bytes: N C of a stored weight, M C of float32 for each GROUP of weights. FLOPs: 2 M N C.
"""

import numpy as np
from numba import prange

from xplm_numpy.arrays import empty
from xplm_numpy.dot import MOST_ROWS
from xplm_numpy.gemv import CHUNK, STREAMS, count_blocks, multiply_chunk, row_of
from xplm_numpy.jit import exact, parallel, serial
from xplm_numpy.narrow import narrow, widen

GROUP = 16
"""Blocks of four rows of weights in a unit of work."""

NUMBERS = 2**16
"""Numbers of x in a unit of work, at most: 256 KiB."""


@parallel()
def multiply_many(x, weight, bias, y):
    """y = x @ weight^T + bias.   x (M, C), weight (N, C), bias (N,) or empty, y (M, N), all as stored"""
    M, C = len(y), weight.shape[1]
    packed = pack(x)
    rows = max(1, NUMBERS // packed.shape[2] // MOST_ROWS) * MOST_ROWS
    slabs = (M + rows - 1) // rows
    groups = (count_blocks(weight) + GROUP - 1) // GROUP
    for unsigned in prange(groups * slabs):
        unit = np.int64(unsigned)
        begin, end = unit // slabs * GROUP, min(count_blocks(weight), (unit // slabs + 1) * GROUP)
        first = unit % slabs * rows
        last = min(M, first + rows)
        sums = empty((last - first, STREAMS * GROUP))
        _multiply_unit(packed, C, weight, begin, end, first, sums)
        _finish_unit(sums, bias, begin, end, first, y)


@serial()
def _finish_unit(sums, bias, begin, end, first, y):
    """The columns of blocks begin .. end - 1 of y, of rows from `first` on."""
    N = y.shape[1]
    whole = min(end, N // STREAMS)
    for r in range(len(sums)):
        for i in range(STREAMS):
            at = row_of(N, begin, i)
            for k in range(whole - begin):
                y[first + r, at + k] = _biased(sums[r, i * GROUP + k], bias, at + k, y)
        if end > whole:
            for i in range(N % STREAMS):
                n = row_of(N, whole, i)
                y[first + r, n] = _biased(sums[r, i * GROUP + whole - begin], bias, n, y)


@exact()
def _biased(total, bias, n, like):
    """A product with its bias, if there is one, rounded as the array `like` stores it."""
    return narrow(total + widen(bias[n]) if len(bias) > 0 else total, like)


@serial()
def pack(x):
    """float32 (chunks, M, CHUNK or C) of rows (M, C) as stored."""
    M, C = x.shape
    width = max(1, min(C, CHUNK))
    chunks = (C + width - 1) // width
    packed = empty((chunks, M, width))
    for m in range(M):
        for j in range(chunks):
            for c in range(min(width, C - j * width)):
                packed[j, m, c] = widen(x[m, j * width + c])
    return packed


@serial()
def _multiply_unit(packed, C, weight, begin, end, first, sums):
    N = len(weight)
    width = packed.shape[2]
    wide = empty((STREAMS, width))
    for j in range(len(packed)):
        n = min(width, C - j * width)
        for block in range(begin, end):
            for i in range(STREAMS):
                row = row_of(N, block, i)
                for c in range(n):
                    wide[i, c] = widen(weight[row, j * width + c])
            at = block - begin
            multiply_chunk(
                packed[j], first * width, width, wide, 0, width, 2 * width, 3 * width, n,
                sums, at, at + GROUP, at + 2 * GROUP, at + 3 * GROUP, STREAMS * GROUP, len(sums), j > 0,
            )  # fmt: skip
