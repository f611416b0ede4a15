"""The steps of attention over a block of scores, 64 queries and 64 keys. Derivation: `xplm.kernels.attention`.

Row r sees columns up to `reach` + r. Those right of that, to the end of a tile, are computed and hidden.
"""

import numpy as np

from xplm_numpy.exp import exp
from xplm_numpy.jit import serial
from xplm_numpy.key_block import cap_row
from xplm_numpy.tile import COLUMNS, ROWS, put_product

BLOCK = 64
"""Queries, and keys, of a block of scores: 16 KiB of float32."""

LOWEST = np.float32(-np.inf)


@serial()
def round_up(n, size):
    """n rounded up to a multiple."""
    return -(-n // size) * size


@serial()
def extent(reach, r):
    """How many columns of row r hold scores: all that it sees, up to the end of its tile."""
    return max(0, min(BLOCK, round_up(reach + r // ROWS * ROWS + ROWS, COLUMNS)))


@serial()
def copy_rows(x, begin, end, scale, block):
    """Rows from `begin` on, before `end`, scaled; zeros where there are none."""
    D = x.shape[1]
    n = min(len(block), end - begin)
    for r in range(n):
        for d in range(D):
            block[r, d] = x[begin + r, d] * scale
        for d in range(D, block.shape[1]):
            block[r, d] = np.float32(0.0)
    for r in range(n, len(block)):
        for d in range(block.shape[1]):
            block[r, d] = np.float32(0.0)


@serial()
def copy_columns(x, begin, end, block):
    """The same rows as columns."""
    D = x.shape[1]
    n = min(block.shape[1], end - begin)
    for d in range(D):
        for r in range(n):
            block[d, r] = x[begin + r, d]
        for r in range(n, block.shape[1]):
            block[d, r] = np.float32(0.0)
    for d in range(D, len(block)):
        for r in range(block.shape[1]):
            block[d, r] = np.float32(0.0)


@serial()
def put_scores(a, columns, scores, rows, depth, reach):
    """scores = a @ columns, as far as each row extends."""
    row = a.shape[1]
    for r in range(0, rows, ROWS):
        n = extent(reach, r)
        put_product(a, r * row, row, 1, columns, 0, scores, r * BLOCK, ROWS, depth, n, False)


@serial()
def add_seen(scores, values, sums, rows, reach):
    """sums += scores @ values, over the keys that a query sees."""
    width = values.shape[1]
    for r in range(0, rows, ROWS):
        depth = max(0, min(BLOCK, reach + r + ROWS))
        put_product(scores, r * BLOCK, BLOCK, 1, values, 0, sums, r * width, ROWS, depth, width, True)  # fmt: skip


@serial()
def add_transposed(scores, a, sums, n, reach):
    """sums += scores^T @ a, over the queries that see a key."""
    width = a.shape[1]
    for c in range(0, min(BLOCK, reach + n), ROWS):
        r = max(0, c - reach)
        at = r * BLOCK + c
        put_product(scores, at, 1, BLOCK, a, r * width, sums, c * width, ROWS, n - r, width, True)


@serial()
def cap_scores(scores, n, reach, cap):
    """cap tanh(score / cap) in the place of scores, where there is a cap."""
    if cap > np.float32(0.0):
        for r in range(n):
            cap_row(scores, r, extent(reach, r), cap)


@serial()
def put_slopes(scores, n, reach, cap, slopes):
    """1 - (score / cap)^2 of capped scores, where there is a cap."""
    if cap > np.float32(0.0):
        for r in range(n):
            for c in range(extent(reach, r)):
                t = scores[r, c] / cap
                slopes[r, c] = np.float32(1.0) - t * t


@serial()
def hide(scores, lowest, begin, n, slot, reach):
    """-inf where row r does not see the slot of a column."""
    for r in range(n):
        columns = extent(reach, r)
        for c in range(max(0, reach + r + 1), columns):
            scores[r, c] = LOWEST
        for c in range(min(columns, lowest[begin + r] - slot)):
            scores[r, c] = LOWEST


@serial()
def exponentiate(scores, n, reach, highest, totals, sums):
    """Scores become exp(score - m); m, l and the sums of each row follow it."""
    for r in range(n):
        columns = extent(reach, r)
        before = highest[r]
        m = before
        for c in range(columns):
            m = max(m, scores[r, c])
        highest[r] = m

        m = m if m > LOWEST else np.float32(0.0)
        total = np.float32(0.0)
        for c in range(columns):
            e = exp(scores[r, c] - m)
            scores[r, c] = e
            total += e
        if m > before:
            shrink = exp(before - m)
            totals[r] *= shrink
            for d in range(sums.shape[1]):
                sums[r, d] *= shrink
        totals[r] += total


@serial()
def exponentiate_back(scores, lse, begin, n, reach):
    """Scores become exp(score - lse); a row that sees nothing holds only hidden ones."""
    for r in range(n):
        shift = lse[begin + r]
        shift = shift if shift > LOWEST else np.float32(0.0)
        for c in range(extent(reach, r)):
            scores[r, c] = exp(scores[r, c] - shift)


@serial()
def differentiate(probs, dscores, delta, n, reach, cap, slopes):
    """dP becomes dX: dS = P * (dP - delta), and dX = dS * slope where there is a cap."""
    for r in range(n):
        for c in range(extent(reach, r)):
            dscores[r, c] = probs[r, c] * (dscores[r, c] - delta[r])
    if cap > np.float32(0.0):
        for r in range(n):
            for c in range(extent(reach, r)):
                dscores[r, c] *= slopes[r, c]
