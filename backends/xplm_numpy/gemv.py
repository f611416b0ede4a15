"""Products of a few rows with a large matrix: decoding reads every weight once a token, so memory sets the pace.

    out = x @ weight^T          x (B, C) with B small, weight (N, C)

Memory answers one reader late and several at once: four rows of weights are read side by side, each from a quarter of
the matrix of its own, so that a processor has four pages on their way instead of one. Block n holds the rows n, n + Q,
n + 2 Q and n + 3 Q, Q = floor(N / 4), and one more block what is left of N, its last row as often as it takes. A weight
is read from memory once for all rows of x, of which three are multiplied at a time.

Bytes: N C times the size of a stored weight. FLOPs: 2 B N C.

Numerics. A sum is in float32: chunks of CHUNK numbers one after another, each in the order that `xplm_numpy.dot` has.
So the bits of a row depend on that row alone.
"""

from xplm_numpy.dot import MOST_ROWS, put_dots_1, put_dots_2, put_dots_3
from xplm_numpy.jit import exact, serial
from xplm_numpy.narrow import narrow, widen

STREAMS = 4
"""Places of a matrix that a thread reads from at a time; loops are written out for as many."""

CHUNK = 1024
"""Numbers of a row that are summed up at a time: four rows of them, and three of x, stay in the nearest cache."""


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
    N, C = weight.shape
    n0, n1 = row_of(N, block, 0), row_of(N, block, 1)
    n2, n3 = row_of(N, block, 2), row_of(N, block, 3)
    for begin in range(0, max(1, C), CHUNK):
        multiply_chunk(
            x, begin, C, weight, begin + n0 * C, begin + n1 * C, begin + n2 * C, begin + n3 * C,
            min(CHUNK, C - begin), out, n0, n1, n2, n3, N, len(out), begin > 0,
        )  # fmt: skip


@serial()
def multiply_chunk(
    x, x_at, x_row, w, w0, w1, w2, w3, length, out, o0, o1, o2, o3, out_row, rows, is_added
):  # fmt: skip
    """The tiles of any number of rows: see `xplm_numpy.dot`."""
    for _ in range(rows // MOST_ROWS):
        put_dots_3(
            x, x_at, x_row, w, w0, w1, w2, w3, length, out, o0, o1, o2, o3, out_row, is_added
        )
        x_at += MOST_ROWS * x_row
        step = MOST_ROWS * out_row
        o0, o1, o2, o3 = o0 + step, o1 + step, o2 + step, o3 + step
    if rows % MOST_ROWS == 1:
        put_dots_1(
            x, x_at, x_row, w, w0, w1, w2, w3, length, out, o0, o1, o2, o3, out_row, is_added
        )
    elif rows % MOST_ROWS == 2:
        put_dots_2(
            x, x_at, x_row, w, w0, w1, w2, w3, length, out, o0, o1, o2, o3, out_row, is_added
        )


@exact()
def with_bias(sums, bias, n):
    """A product with its bias, if there is one."""
    return sums[n] + widen(bias[n]) if len(bias) > 0 else sums[n]


@exact()
def finish(sums, bias, n, like):
    """The same, rounded as the array `like` stores it, and widened again."""
    return widen(narrow(with_bias(sums, bias, n), like))
