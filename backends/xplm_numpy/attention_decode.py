"""Attention of a few queries over a long cache: decoding. Derivation: `xplm.kernels.attention`.

The cache is read once, as it is stored, by blocks of KEYS slots of one key/value head; a block serves the G query heads
that read the head, and leaves for each its maximum m, its sum of exponentials l, and its weighted sum of values a. Over
the blocks of a query, in order,

    M = max m,   y = sum(exp(m - M) a) / sum(exp(m - M) l),   lse = M + log(sum(exp(m - M) l))

Where blocks begin depends on the slots alone, so a result does not depend on the number of threads.

Bytes: 2 B K S D numbers of the cache, of those slots that a window shows. FLOPs: 4 B H T S D.
Source: the split over keys is that of Dao et al., "Flash-Decoding" (2023).
"""

import numpy as np
from numba import prange

from xplm_numpy.exp import exp
from xplm_numpy.jit import parallel, serial
from xplm_numpy.narrow import bits, widen

KEYS = 128
"""Slots a block."""

NO_PADDING = np.empty((0, 0), np.int64)
"""What `attend` is given as `first` where every query sees from slot 0 on."""

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


@parallel()
def attend(q, k, v, first, start, scale, window):
    """y (B, H, T, D) and lse (B, H, T), float32, not rounded.

    q (B, H, T, D), k and v (B, K, slots, D) as stored; first (B, T) int64, or NO_PADDING; window: 0 for none.
    Slots from start + T on are not read.
    """
    B, H, T, D = q.shape
    K = k.shape[1]
    R = H // K * T  # rows that read a key/value head
    low = max(0, start - window + 1) if window > 0 else 0
    first_block = low // KEYS
    blocks = (start + T + KEYS - 1) // KEYS - first_block

    m = np.empty((B, K, blocks, R), np.float32)
    total = np.empty((B, K, blocks, R), np.float32)
    a = np.empty((B, K, blocks, R, D), np.float32)
    for unsigned in prange(B * K * blocks):
        unit = np.int64(unsigned)
        block = unit % blocks
        head = unit // blocks % K
        b = unit // blocks // K
        _attend_block(
            q, k, v, first, start, scale, window, b, head, (first_block + block) * KEYS,
            m[b, head, block], total[b, head, block], a[b, head, block],
        )  # fmt: skip

    y = np.empty((B, H, T, D), np.float32)
    lse = np.empty((B, H, T), np.float32)
    for b in range(B):
        for head in range(K):
            for r in range(R):
                h, t = head * (R // T) + r // T, r % T
                lse[b, h, t] = _join(m[b, head], total[b, head], a[b, head], r, y[b, h, t])
    return y, lse


@serial()
def _attend_block(q, k, v, first, start, scale, window, b, head, begin, m, total, a):
    """The rows that read one head over the slots begin .. begin + KEYS."""
    T, D = q.shape[2:]
    G = q.shape[1] // k.shape[1]
    row = np.empty(D, np.float32)
    probs = np.empty(KEYS, np.float32)
    for r in range(G * T):
        h, t = head * G + r // T, r % T
        low = begin
        if window > 0:
            low = max(low, start + t - window + 1)
        if len(first) > 0:
            low = max(low, first[b, t])
        high = min(begin + KEYS, start + t + 1)

        for d in range(D):
            row[d] = widen(q[b, h, t, d]) * scale
        highest = HIDDEN
        for s in range(low, high):
            score = np.float32(0.0)
            for d in range(D):
                score += row[d] * widen(k[b, head, s, d])
            probs[s - begin] = score
            highest = max(highest, score)

        m[r] = highest
        total[r] = _exponentials(probs, max(low, begin) - begin, high - begin, highest)
        _weigh(probs, v, b, head, begin, low, high, a, r)


@serial()
def _exponentials(scores, low, high, highest):
    """exp(scores - highest) in their place; returns their sum."""
    total = np.float32(0.0)
    for s in range(low, high):
        scores[s] = exp(scores[s] - highest)
    for s in range(low, high):
        total += scores[s]
    return total


@serial()
def _weigh(probs, v, b, head, begin, low, high, a, r):
    """a[r] = sum over the slots low .. high of probs v."""
    D = v.shape[3]
    for d in range(D):
        a[r, d] = np.float32(0.0)
    quads = low + max(0, high - low) // 4 * 4
    for s in range(low, quads, 4):
        p0, p1, p2, p3 = (
            probs[s - begin],
            probs[s - begin + 1],
            probs[s - begin + 2],
            probs[s - begin + 3],
        )
        for d in range(D):
            a[r, d] += (
                p0 * widen(v[b, head, s, d])
                + p1 * widen(v[b, head, s + 1, d])
                + p2 * widen(v[b, head, s + 2, d])
                + p3 * widen(v[b, head, s + 3, d])
            )
    for s in range(quads, high):
        for d in range(D):
            a[r, d] += probs[s - begin] * widen(v[b, head, s, d])


@serial()
def _join(m, total, a, r, y):
    """One row's blocks put together in y (D,); returns its log-sum-exp. A row that sees nothing is zeros, -inf."""
    highest = HIDDEN
    for block in range(len(m)):
        highest = max(highest, m[block, r])
    for d in range(len(y)):
        y[d] = np.float32(0.0)
    if highest == HIDDEN:
        return HIDDEN

    whole = np.float32(0.0)
    for block in range(len(m)):
        share = exp(m[block, r] - highest)
        whole += share * total[block, r]
        for d in range(len(y)):
            y[d] += share * a[block, r, d]
    for d in range(len(y)):
        y[d] /= whole
    return highest + np.log(whole)
