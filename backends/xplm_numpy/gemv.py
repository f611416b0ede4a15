"""Products of a few rows with a large matrix: decoding reads every weight once a token, so memory sets the pace.

    out = x @ weight^T          x (B, C) with B small, weight (N, C)

A weight is read from memory once for all rows of x, two rows of weights by four of x at a time, each of the eight sums
in a vector register of its own. For more rows than that the two rows of weights are read again from the nearest cache.

Bytes: N C times the size of a stored weight. FLOPs: 2 B N C.

Numerics. A sum is in float32, in an order that depends on C and on the place of its row in x alone.
"""

import numpy as np

from xplm_numpy.jit import serial
from xplm_numpy.narrow import narrow, widen

ROWS_PER_BLOCK = 8
"""Rows of weights that a thread takes at a time."""


@serial()
def count_blocks(weight):
    """Blocks of rows of weight (N, C)."""
    return (len(weight) + ROWS_PER_BLOCK - 1) // ROWS_PER_BLOCK


@serial()
def multiply(x, weight, block, out):
    """The columns of one block of x @ weight^T.   x (B, C) float32, weight (N, C) as stored, out (B, N) float32"""
    B = len(x)
    begin = block * ROWS_PER_BLOCK
    end = min(len(weight), begin + ROWS_PER_BLOCK)
    quads = B - B % 4
    pairs = end - (end - begin) % 2

    for n in range(begin, pairs, 2):
        for b in range(0, quads, 4):
            _dot_4_by_2(x, b, weight, n, out)
        for b in range(quads, B):
            out[b, n] = _dot(x, b, weight, n)
            out[b, n + 1] = _dot(x, b, weight, n + 1)
    for n in range(pairs, end):
        for b in range(B):
            out[b, n] = _dot(x, b, weight, n)


@serial()
def with_bias(sums, bias, b, n):
    """A product with its bias, if there is one."""
    return sums[b, n] + widen(bias[n]) if len(bias) > 0 else sums[b, n]


@serial()
def finish(sums, bias, b, n, like):
    """The same, rounded as the array `like` stores it, and widened again."""
    return widen(narrow(with_bias(sums, bias, b, n), like))


@serial()
def _dot(x, b, weight, n):
    total = np.float32(0.0)
    for c in range(weight.shape[1]):
        total += x[b, c] * widen(weight[n, c])
    return total


@serial()
def _dot_4_by_2(x, b, weight, n, out):
    t00 = t10 = t20 = t30 = t01 = t11 = t21 = t31 = np.float32(0.0)
    for c in range(weight.shape[1]):
        w0, w1 = widen(weight[n, c]), widen(weight[n + 1, c])
        x0, x1, x2, x3 = x[b, c], x[b + 1, c], x[b + 2, c], x[b + 3, c]
        t00 += x0 * w0
        t10 += x1 * w0
        t20 += x2 * w0
        t30 += x3 * w0
        t01 += x0 * w1
        t11 += x1 * w1
        t21 += x2 * w1
        t31 += x3 * w1
    out[b, n], out[b, n + 1] = t00, t01
    out[b + 1, n], out[b + 1, n + 1] = t10, t11
    out[b + 2, n], out[b + 2, n + 1] = t20, t21
    out[b + 3, n], out[b + 3, n + 1] = t30, t31
