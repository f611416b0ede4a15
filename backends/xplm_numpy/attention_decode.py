"""Attention of a few queries over a long cache: decoding. Derivation: `xplm.kernels.attention`.

The cache is read once, as it is stored, by blocks of slots of one key/value head; a block serves the G query heads that
read the head, and leaves for each its maximum m, its sum of exponentials l, and its weighted sum of values a. Over
the blocks of a query, in order,

    M = max m,   y = sum(exp(m - M) a) / sum(exp(m - M) l),   lse = M + log(sum(exp(m - M) l))

A sink is one more block, whose m is the sink, its l 1 and its a 0.
Where blocks begin depends on the slots alone, so a result does not depend on the number of threads.

Bytes: 2 B K S D numbers of the cache, of those slots that a window shows. FLOPs: 4 B H T S D.
Source: the split over keys is that of Dao et al., "Flash-Decoding" (2023).
"""

import numpy as np
from numba import prange

from xplm_numpy.arrays import empty
from xplm_numpy.exp import exp
from xplm_numpy.gemv import STREAMS, count_blocks, multiply
from xplm_numpy.jit import parallel, serial
from xplm_numpy.narrow import bits, widen
from xplm_numpy.tanh import tanh

MOST_KEYS = 256
"""Slots of a block in a long cache."""

SHORT_BLOCKS = 4
"""Blocks that a shorter cache is cut into, or one less, so that threads have as much to do as one another."""

NO_PADDING = np.empty((0, 0), np.int64)
"""What `attend` is given as `first` where every query sees from slot 0 on."""

NO_SINKS = np.empty(0, np.float32)
"""What it is given as `sinks` where heads have none."""

HIDDEN = np.float32(-np.inf)


def cache_bits(array):
    """Keys or values (B, K, S, D) for a kernel: a slice of a larger cache's first slots as the whole of that cache.

    Slots from S on are not read. A whole array is dense, whatever its slice is, so one compiled kernel serves both.
    """
    whole = array.base
    is_front = (
        isinstance(whole, np.ndarray)
        and whole.shape[:2] + whole.shape[3:] == array.shape[:2] + array.shape[3:]
        and whole.strides == array.strides
        and whole.__array_interface__["data"] == array.__array_interface__["data"]
    )
    return bits(whole if is_front else array)


def first_slots(first):
    """`first` (B, T) for a kernel: int64 of its own, or NO_PADDING."""
    return NO_PADDING if first is None else np.array(first, np.int64, order="C")


def sink_bits(sinks):
    """`sinks` (H,) for a kernel: float32, or NO_SINKS."""
    return NO_SINKS if sinks is None else bits(np.asarray(sinks, np.float32))


@parallel()
def attend(q, k, v, first, sinks, starts, scale, window, cap):
    """y (B, H, T, Dv) and lse (B, H, T), float32, not rounded.

    q (B, H, T, D), k and v (B, K, slots, D or Dv) as stored; first (B, T) int64, or NO_PADDING; sinks (H,), or
    NO_SINKS; starts (B,) int64, slots of the first queries; window, cap: 0 for none. Slots from a row's start + T on
    are not read.
    """
    low, length, blocks = cut(starts, q.shape[2], window)
    parts = make_parts(q, v, blocks)
    for unit in prange(q.shape[0] * k.shape[1] * blocks):
        attend_block(np.int64(unit), q, k, v, first, starts, scale, window, cap, low, length, parts)
    return join(parts, sinks, q)


@serial()
def cut(starts, T, window):
    """The first slot that T queries of any row see; the slots of a block; how many blocks there are.

    Blocks of all rows are cut alike, from the earliest start and the latest.
    """
    earliest, latest = starts[0], starts[0]
    for start in starts:
        earliest, latest = min(earliest, start), max(latest, start)
    low = max(0, earliest - window + 1) if window > 0 else 0
    slots = latest + T - low
    length = min(MOST_KEYS, (slots + SHORT_BLOCKS - 1) // SHORT_BLOCKS)
    return low, length, (slots + length - 1) // length


@serial()
def make_parts(q, v, blocks):
    """m and l (B, K, blocks, R) and a (B, K, blocks, R, Dv), of the R rows that read a key/value head."""
    B, H, T, _ = q.shape
    K = v.shape[1]
    R = H // K * T
    m, total = empty((B, K, blocks, R)), empty((B, K, blocks, R))
    return m, total, empty((B, K, blocks, R, v.shape[3]))


@serial()
def attend_block(unit, q, k, v, first, starts, scale, window, cap, low, length, parts):
    """The part of one of the B K blocks, of q (B, H, T, D) and k, v (B, K, slots, D); the others as `cut` gives them.

    The heads of one query see the same slots.
    """
    T, D = q.shape[2:]
    K = k.shape[1]
    G = q.shape[1] // K
    blocks = parts[0].shape[2]
    b, head, block = unit // blocks // K, unit // blocks % K, unit % blocks
    m, total, a = parts[0][b, head, block], parts[1][b, head, block], parts[2][b, head, block]
    begin, start = low + block * length, starts[b]
    rows = empty((G, D))
    sums = empty((G, v.shape[3]))
    for t in range(T):
        lowest = begin
        if window > 0:
            lowest = max(lowest, start + t - window + 1)
        if len(first) > 0:
            lowest = max(lowest, first[b, t])
        n = max(0, min(begin + length, start + t + 1) - lowest)
        keys, values = k[b, head, lowest : lowest + n], v[b, head, lowest : lowest + n]

        for g in range(G):
            for d in range(D):
                rows[g, d] = widen(q[b, head * G + g, t, d]) * scale
        scores = empty((G, n))
        for four in range(count_blocks(keys)):
            multiply(rows, keys, four, scores)
        if cap > np.float32(0.0):
            for g in range(G):
                cap_row(scores, g, n, cap)
        for g in range(G):
            r = g * T + t
            m[r] = _highest(scores, g)
            total[r] = _exponentials(scores, g, m[r])
        weigh(scores, values, sums)
        for g in range(G):
            for d in range(sums.shape[1]):
                a[g * T + t, d] = sums[g, d]


@serial()
def cap_row(scores, r, n, cap):
    """cap tanh(score / cap) in the place of a row's scores."""
    for s in range(n):
        scores[r, s] = cap * tanh(scores[r, s] / cap)


@serial()
def sink_of(sinks, h):
    """The sink of head h; -inf where there are none."""
    return sinks[h] if len(sinks) > 0 else HIDDEN


@serial()
def _highest(scores, g):
    highest = HIDDEN
    for s in range(scores.shape[1]):
        highest = max(highest, scores[g, s])
    return highest


@serial()
def _exponentials(scores, g, highest):
    """exp(scores - highest) of a row in their place; returns their sum."""
    total = np.float32(0.0)
    for s in range(scores.shape[1]):
        scores[g, s] = exp(scores[g, s] - highest)
    for s in range(scores.shape[1]):
        total += scores[g, s]
    return total


@serial()
def weigh(probs, values, sums):
    """sums = probs @ values, four slots and two rows at a time.   probs (G, n), values (n, D) as stored, sums (G, D)"""
    G, n = probs.shape
    D = values.shape[1]
    for g in range(G):
        for d in range(D):
            sums[g, d] = np.float32(0.0)
    for g in range(0, G - 1, 2):
        _add_2_by_4(probs, g, values, sums)
    if G % 2 == 1:
        _add_1_by_4(probs, G - 1, values, sums)
    for s in range(n // STREAMS * STREAMS, n):
        for g in range(G):
            for d in range(D):
                sums[g, d] += probs[g, s] * widen(values[s, d])


@serial()
def _add_1_by_4(probs, g, values, sums):
    quarter = len(values) // STREAMS
    for s0 in range(quarter):
        s1, s2, s3 = s0 + quarter, s0 + 2 * quarter, s0 + 3 * quarter
        p0, p1, p2, p3 = probs[g, s0], probs[g, s1], probs[g, s2], probs[g, s3]
        for d in range(values.shape[1]):
            v0, v1 = widen(values[s0, d]), widen(values[s1, d])
            v2, v3 = widen(values[s2, d]), widen(values[s3, d])
            sums[g, d] += (p0 * v0 + p1 * v1) + (p2 * v2 + p3 * v3)


@serial()
def _add_2_by_4(probs, g, values, sums):
    quarter = len(values) // STREAMS
    for s0 in range(quarter):
        s1, s2, s3 = s0 + quarter, s0 + 2 * quarter, s0 + 3 * quarter
        p00, p01, p02, p03 = probs[g, s0], probs[g, s1], probs[g, s2], probs[g, s3]
        p10, p11, p12, p13 = probs[g + 1, s0], probs[g + 1, s1], probs[g + 1, s2], probs[g + 1, s3]
        for d in range(values.shape[1]):
            v0, v1 = widen(values[s0, d]), widen(values[s1, d])
            v2, v3 = widen(values[s2, d]), widen(values[s3, d])
            sums[g, d] += (p00 * v0 + p01 * v1) + (p02 * v2 + p03 * v3)
            sums[g + 1, d] += (p10 * v0 + p11 * v1) + (p12 * v2 + p13 * v3)


@serial()
def join(parts, sinks, q):
    """y (B, H, T, Dv) and lse (B, H, T) from the parts of all blocks."""
    B, H, T, _ = q.shape
    m, total, a = parts
    R = m.shape[3]
    y = empty((B, H, T, a.shape[4]))
    lse = empty((B, H, T))
    for b in range(B):
        for head in range(m.shape[1]):
            for r in range(R):
                h, t = head * (R // T) + r // T, r % T
                lse[b, h, t] = _join_row(
                    m[b, head], total[b, head], a[b, head], sink_of(sinks, h), r, y[b, h, t]
                )
    return y, lse


@serial()
def _join_row(m, total, a, sink, r, y):
    """One row's blocks put together in y (D,); returns its log-sum-exp. A row that sees nothing is zeros; its sink."""
    highest, seen = sink, np.float32(0.0)
    for block in range(len(m)):
        highest = max(highest, m[block, r])
        seen += total[block, r]  # 1 and more of each block that it sees, or NaN
    for d in range(len(y)):
        y[d] = np.float32(0.0)
    if seen == np.float32(0.0):
        return sink

    whole = exp(sink - highest)
    for block in range(len(m)):
        share = exp(m[block, r] - highest)
        whole += share * total[block, r]
        for d in range(len(y)):
            y[d] += share * a[block, r, d]
    for d in range(len(y)):
        y[d] /= whole
    return highest + np.log(whole)
