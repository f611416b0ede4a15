"""Products of a few rows with a large matrix: decoding reads every weight once a token, so memory sets the pace.

    out = x @ weight^T          x (B, C) with B small, weight (N, C)

Memory answers one reader late and several at once: four rows of weights are read side by side, each from a quarter of
the matrix of its own, so that a processor has four pages on their way instead of one. Block n holds the rows n, n + Q,
n + 2 Q and n + 3 Q, Q = floor(N / 4), and one more block what is left of N, its last row as often as it takes. A weight
is read from memory once for all rows of x, of which two are multiplied at a time, each of the eight sums in a vector
register of its own.

Bytes: N C times the size of a stored weight. FLOPs: 2 B N C.

Numerics. A sum is in float32, in an order that depends on C and on whether its row of x is multiplied with another.
"""

import numpy as np

from xplm_numpy.jit import serial
from xplm_numpy.narrow import narrow, widen

STREAMS = 4
"""Places of a matrix that a thread reads from at a time; loops are written out for as many."""


@serial()
def count_blocks(weight):
    """Blocks of rows of weight (N, C)."""
    return (len(weight) + STREAMS - 1) // STREAMS


@serial()
def count_rows(n_rows, block):
    """Rows of a block of a matrix with n_rows."""
    return STREAMS if block < n_rows // STREAMS else n_rows % STREAMS


@serial()
def row_of(n_rows, block, i):
    """The i-th row of a block; beyond what is left over, the last row."""
    quarter = n_rows // STREAMS
    return block + i * quarter if block < quarter else min(STREAMS * quarter + i, n_rows - 1)


@serial()
def multiply(x, weight, block, out):
    """The columns of one block of x @ weight^T.   x (B, C) float32, weight (N, C) as stored, out (B, N) float32"""
    B, N = out.shape
    n0, n1 = row_of(N, block, 0), row_of(N, block, 1)
    n2, n3 = row_of(N, block, 2), row_of(N, block, 3)
    for b in range(0, B - 1, 2):
        _dot_2_by_4(x, b, weight, n0, n1, n2, n3, out)
    if B % 2 == 1:
        _dot_1_by_4(x, B - 1, weight, n0, n1, n2, n3, out)


@serial()
def with_bias(sums, bias, b, n):
    """A product with its bias, if there is one."""
    return sums[b, n] + widen(bias[n]) if len(bias) > 0 else sums[b, n]


@serial()
def finish(sums, bias, b, n, like):
    """The same, rounded as the array `like` stores it, and widened again."""
    return widen(narrow(with_bias(sums, bias, b, n), like))


@serial()
def _dot_1_by_4(x, b, weight, n0, n1, n2, n3, out):
    t0 = t1 = t2 = t3 = np.float32(0.0)
    for c in range(weight.shape[1]):
        t0 += x[b, c] * widen(weight[n0, c])
        t1 += x[b, c] * widen(weight[n1, c])
        t2 += x[b, c] * widen(weight[n2, c])
        t3 += x[b, c] * widen(weight[n3, c])
    out[b, n0], out[b, n1], out[b, n2], out[b, n3] = t0, t1, t2, t3


@serial()
def _dot_2_by_4(x, b, weight, n0, n1, n2, n3, out):
    t00 = t01 = t02 = t03 = t10 = t11 = t12 = t13 = np.float32(0.0)
    for c in range(weight.shape[1]):
        w0, w1 = widen(weight[n0, c]), widen(weight[n1, c])
        w2, w3 = widen(weight[n2, c]), widen(weight[n3, c])
        x0, x1 = x[b, c], x[b + 1, c]
        t00 += x0 * w0
        t01 += x0 * w1
        t02 += x0 * w2
        t03 += x0 * w3
        t10 += x1 * w0
        t11 += x1 * w1
        t12 += x1 * w2
        t13 += x1 * w3
    out[b, n0], out[b, n1], out[b, n2], out[b, n3] = t00, t01, t02, t03
    out[b + 1, n0], out[b + 1, n1], out[b + 1, n2], out[b + 1, n3] = t10, t11, t12, t13
