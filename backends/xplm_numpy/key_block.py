"""Queries and one block of keys: the steps of `xplm_numpy.attention_decode`, which has the formulas.

Each sum is in an order of its own: over D and over exponentials as in `xplm_numpy.dot`, of values slot after slot.
"""

import numpy as np

from xplm.views import PAGE
from xplm_numpy.dot import dot, highest, multiply_add
from xplm_numpy.exp import exp
from xplm_numpy.gemv import STREAMS, multiply_chunk, row_of
from xplm_numpy.jit import exact, serial
from xplm_numpy.tanh import tanh
from xplm_numpy.vectors import prefetch
from xplm_numpy.weighted_sum import MOST_ROWS, add_weighted_1, add_weighted_2, add_weighted_3

KEYS = PAGE
"""Slots of a block."""

HIDDEN = np.float32(-np.inf)
ONES = np.ones(KEYS, np.float32)


@serial()
def attend_rows(rows, k, k_at, k_row, v, v_at, v_row, lows, highs, cap, scores, m, total, a):
    """m (R,), l (R,) and a (R, Dv) of rows (R, D) of queries over one block of keys.

    k and v: flat, as stored; the block begins at k_at and v_at, a slot is k_row and v_row numbers. scores (R, KEYS).
    """
    R, D = rows.shape
    seen = 0
    for r in range(R):
        seen = max(seen, highs[r])
    prefetch(v, v_at, seen * v_row)
    for four in range((seen + STREAMS - 1) // STREAMS):
        s0, s1, s2, s3 = (
            row_of(seen, four, 0),
            row_of(seen, four, 1),
            row_of(seen, four, 2),
            row_of(seen, four, 3),
        )
        multiply_chunk(
            rows, 0, D, k, k_at + s0 * k_row, k_at + s1 * k_row, k_at + s2 * k_row, k_at + s3 * k_row, D,
            scores, s0, s1, s2, s3, KEYS, R, False,
        )  # fmt: skip
    for r in range(R):
        low, n = lows[r], highs[r] - lows[r]
        if cap > np.float32(0.0):
            cap_row(scores, r, highs[r], cap)
        m[r] = highest(scores, r * KEYS + low, n)
        exponentiate(scores, r, low, highs[r], m[r])
        total[r] = dot(scores, r * KEYS + low, ONES, 0, n)
    add_weighted(scores, lows, highs, v, v_at, v_row, a)


@exact()
def cap_row(scores, r, n, cap):
    """cap tanh(score / cap) in the place of a row's scores."""
    for s in range(n):
        scores[r, s] = cap * tanh(scores[r, s] / cap)


@exact()
def exponentiate(scores, r, low, high, m):
    """exp(score - m) in the place of the scores low .. high - 1 of a row."""
    seen = scores[r, low:high]
    for s in range(len(seen)):
        seen[s] = exp(seen[s] - m)


@serial()
def weigh(probs, values, sums):
    """sums = probs @ values.   probs (R, n), values (n, D) as stored, sums (R, D)"""
    n, D = values.shape
    lows, highs = np.zeros(len(probs), np.int64), np.full(len(probs), n, np.int64)
    add_weighted(probs, lows, highs, values.reshape(values.size), 0, D, sums)


@serial()
def add_weighted(probs, lows, highs, v, v_at, v_row, sums):
    """sums_r = sum of probs_rs v_s over s = lows_r .. highs_r - 1, in that order.   sums (R, D)

    As many rows at a time as a tile has, where all of them see a slot.
    """
    R, D = sums.shape
    for r in range(R):
        for d in range(D):
            sums[r, d] = np.float32(0.0)
    for first in range(0, R, MOST_ROWS):
        rows = min(MOST_ROWS, R - first)
        low, high = lows[first], highs[first]
        for r in range(first + 1, first + rows):
            low, high = max(low, lows[r]), min(high, highs[r])
        high = max(low, high)
        for r in range(first, first + rows):
            _add(probs, r, 1, lows[r], min(low, highs[r]), v, v_at, v_row, sums)
        _add(probs, first, rows, low, high, v, v_at, v_row, sums)
        for r in range(first, first + rows):
            _add(probs, r, 1, max(high, lows[r]), highs[r], v, v_at, v_row, sums)


@serial()
def _add(probs, r, rows, low, high, v, v_at, v_row, sums):
    """The slots low .. high - 1, which each of a few rows from r on sees."""
    P, D = probs.shape[1], sums.shape[1]
    if low >= high:
        return
    if rows == 1:
        add_weighted_1(probs, r * P, P, v, v_at, v_row, low, high, D, sums, r * D, D)
    elif rows == 2:
        add_weighted_2(probs, r * P, P, v, v_at, v_row, low, high, D, sums, r * D, D)
    else:
        add_weighted_3(probs, r * P, P, v, v_at, v_row, low, high, D, sums, r * D, D)


@serial()
def begin_row(sink, r, M, L, y):
    """M_r, L_r and y (Dv,) of a query that has seen nothing but its sink."""
    M[r] = sink
    L[r] = np.float32(0.0) if sink == HIDDEN else exp(sink - sink)  # 1, or NaN
    for d in range(len(y)):
        y[d] = np.float32(0.0)


@exact()
def add_part(m, total, a, part, r, M, L, y):
    """A block's part, put to M_r, L_r and y (Dv,); nothing where the query saw nothing of it."""
    if total[part] == np.float32(0.0):  # 1 and more otherwise, or NaN
        return
    new = max(M[r], m[part])
    kept, share = exp(M[r] - new), exp(m[part] - new)
    M[r] = new
    L[r] = multiply_add(kept, L[r], share * total[part])
    for d in range(len(y)):
        y[d] = multiply_add(kept, y[d], share * a[part, d])


@exact()
def end_row(r, M, L, y):
    """y (Dv,) divided by L_r; returns the log-sum-exp. A row that sees nothing is zeros; its sink."""
    if L[r] == np.float32(0.0):
        return M[r]
    for d in range(len(y)):
        y[d] /= L[r]
    return M[r] + np.log(L[r])
