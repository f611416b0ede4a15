"""Products of any number of rows with a matrix, each row's sums in the order that `xplm_numpy.gemv` gives them in.

    out = x @ weight^T          x (M, C), weight (N, C)

A unit of work is SLAB rows of x by GROUP blocks of four rows of weights, a chunk of both at a time: the rows of x stay
in the cache beside the core, and a block in the nearest while it meets them, three at a time. Nothing is copied or
packed: both operands are read along C as they lie, and a stored weight is widened in registers. One row has the whole
matrix read once, as decoding has it.

Bytes: N C of a stored weight for each SLAB of rows, all but the first time from a cache. FLOPs: 2 M N C.
"""

import numpy as np
from numba import prange

from xplm_numpy.arrays import empty
from xplm_numpy.gemv import CHUNK, STREAMS, count_blocks, multiply_chunk, row_of, with_bias
from xplm_numpy.jit import exact, parallel, serial
from xplm_numpy.narrow import narrow

GROUP = 8
"""Blocks of four rows of weights in a unit of work."""

SLAB = 48
"""Rows of x in it: a chunk of them takes 192 KiB."""


@parallel()
def multiply_rows(x, weight, bias, y):
    """y = x @ weight^T + bias.   x (M, C) float32; weight (N, C), bias (N,) or empty, y (M, N), all as stored"""
    M = len(y)
    slabs = (M + SLAB - 1) // SLAB
    groups = (count_blocks(weight) + GROUP - 1) // GROUP
    for unsigned in prange(groups * slabs):
        unit = np.int64(unsigned)
        begin, end = unit // slabs * GROUP, min(count_blocks(weight), (unit // slabs + 1) * GROUP)
        first = unit % slabs * SLAB
        sums = empty((min(M - first, SLAB), STREAMS * GROUP))
        _multiply_unit(x, weight, begin, end, first, sums)
        _finish_unit(sums, bias, begin, end, first, y)


@serial()
def _multiply_unit(x, weight, begin, end, first, sums):
    """sums (rows, STREAMS GROUP): of the rows from `first` on with blocks begin .. end - 1, column i GROUP + block."""
    N, C = weight.shape
    for at in range(0, max(1, C), CHUNK):
        for block in range(begin, end):
            n0, n1 = row_of(N, block, 0), row_of(N, block, 1)
            n2, n3 = row_of(N, block, 2), row_of(N, block, 3)
            o = block - begin
            multiply_chunk(
                x, first * C + at, C, weight, n0 * C + at, n1 * C + at, n2 * C + at, n3 * C + at, min(CHUNK, C - at),
                sums, o, o + GROUP, o + 2 * GROUP, o + 3 * GROUP, STREAMS * GROUP, len(sums), at > 0,
            )  # fmt: skip


@serial()
def _finish_unit(sums, bias, begin, end, first, y):
    """The columns of blocks begin .. end - 1 of y, of rows from `first` on."""
    N = y.shape[1]
    whole = min(end, N // STREAMS)
    for r in range(len(sums)):
        for i in range(STREAMS):
            at = row_of(N, begin, i)
            columns = slice(at, at + whole - begin)
            _finish_columns(sums[r, i * GROUP :], bias[columns], y[first + r, columns])
        if end > whole:
            columns = slice(STREAMS * whole, N)
            for i in range(N % STREAMS):
                at = i * GROUP + whole - begin
                _finish_columns(sums[r, at:], bias[columns][i:], y[first + r, columns][i : i + 1])


@exact()
def _finish_columns(sums, bias, y):
    for n in range(len(y)):
        y[n] = narrow(with_bias(sums, bias, n), y)
