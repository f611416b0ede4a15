"""Queries and one block of keys: the steps of `xplm_numpy.attention_decode`, which has the formulas.

Each sum is in an order of its own: over D and over exponentials as in `xplm_numpy.dot`, of values slot after slot.
"""

import numpy as np

from xplm.views import PAGE
from xplm_numpy.dot import dot, highest, multiply_add
from xplm_numpy.exp import exp
from xplm_numpy.gemv import STREAMS, multiply_chunk, row_of
from xplm_numpy.jit import exact, serial
from xplm_numpy.narrow import widen
from xplm_numpy.tanh import tanh

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
    for s in range(low, high):
        scores[r, s] = exp(scores[r, s] - m)


@serial()
def weigh(probs, values, sums):
    """sums = probs @ values.   probs (R, n), values (n, D) as stored, sums (R, D)"""
    n, D = values.shape
    lows, highs = np.zeros(len(probs), np.int64), np.full(len(probs), n, np.int64)
    add_weighted(probs, lows, highs, values.reshape(values.size), 0, D, sums)


@serial()
def add_weighted(probs, lows, highs, v, v_at, v_row, sums):
    """sums_r = sum of probs_rs v_s over s = lows_r .. highs_r - 1, in that order.   sums (R, D)

    Two rows at a time where both see a slot.
    """
    R, D = sums.shape
    for r in range(R):
        for d in range(D):
            sums[r, d] = np.float32(0.0)
    for r in range(0, R - 1, 2):
        low, high = max(lows[r], lows[r + 1]), min(highs[r], highs[r + 1])
        if low < high:
            for own in range(r, r + 2):
                _add_1(probs, own, lows[own], low, v, v_at, v_row, sums)
            _add_2(probs, r, low, high, v, v_at, v_row, sums)
            for own in range(r, r + 2):
                _add_1(probs, own, high, highs[own], v, v_at, v_row, sums)
        else:
            for own in range(r, r + 2):
                _add_1(probs, own, lows[own], highs[own], v, v_at, v_row, sums)
    if R % 2 == 1:
        _add_1(probs, R - 1, lows[R - 1], highs[R - 1], v, v_at, v_row, sums)


@exact()
def _add_1(probs, r, low, high, v, v_at, v_row, sums):
    D = sums.shape[1]
    four = low + max(0, high - low) // STREAMS * STREAMS
    for s in range(low, four, STREAMS):
        p0, p1, p2, p3 = probs[r, s], probs[r, s + 1], probs[r, s + 2], probs[r, s + 3]
        at = v_at + s * v_row
        for d in range(D):
            total = multiply_add(p0, widen(v[at + d]), sums[r, d])
            total = multiply_add(p1, widen(v[at + v_row + d]), total)
            total = multiply_add(p2, widen(v[at + 2 * v_row + d]), total)
            sums[r, d] = multiply_add(p3, widen(v[at + 3 * v_row + d]), total)
    for s in range(four, high):
        for d in range(D):
            sums[r, d] = multiply_add(probs[r, s], widen(v[v_at + s * v_row + d]), sums[r, d])


@exact()
def _add_2(probs, r, low, high, v, v_at, v_row, sums):
    D = sums.shape[1]
    four = low + (high - low) // STREAMS * STREAMS
    for s in range(low, four, STREAMS):
        p0, p1, p2, p3 = probs[r, s], probs[r, s + 1], probs[r, s + 2], probs[r, s + 3]
        q0, q1, q2, q3 = (
            probs[r + 1, s],
            probs[r + 1, s + 1],
            probs[r + 1, s + 2],
            probs[r + 1, s + 3],
        )
        at = v_at + s * v_row
        for d in range(D):
            v0, v1 = widen(v[at + d]), widen(v[at + v_row + d])
            v2, v3 = widen(v[at + 2 * v_row + d]), widen(v[at + 3 * v_row + d])
            one, other = multiply_add(p0, v0, sums[r, d]), multiply_add(q0, v0, sums[r + 1, d])
            one, other = multiply_add(p1, v1, one), multiply_add(q1, v1, other)
            one, other = multiply_add(p2, v2, one), multiply_add(q2, v2, other)
            sums[r, d], sums[r + 1, d] = multiply_add(p3, v3, one), multiply_add(q3, v3, other)
    for s in range(four, high):
        _add_1(probs, r, s, s + 1, v, v_at, v_row, sums)
        _add_1(probs, r + 1, s, s + 1, v, v_at, v_row, sums)


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
