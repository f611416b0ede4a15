"""Attention of queries over a cache, block by block of slots. Derivation: `xplm.kernels.attention`.

The cache is read as it is stored, by blocks of KEYS slots of one key/value head, counted from slot 0; a block serves
the G query heads that read the head, and gives for each query its maximum m, its sum of exponentials l, and its
weighted sum of values a. The blocks of a query are put together in order, from M = -inf, L = 0, y = 0 on:

    M' = max(M, m),   L' = exp(M - M') L + exp(m - M') l,   y' = exp(M - M') y + exp(m - M') a

and then y = y / L, lse = M + log L. A query whose head has a sink begins with M = sink and L = 1.

Which blocks a query sees, and what it sees of them, depends on its slot and the window alone, and every sum is in an
order of its own: over D as in `xplm_numpy.dot`, over slots one after another. So a query's bits are the same whatever
is computed beside it: other rows, other queries, on any number of threads.

Bytes: 2 B K S D numbers of the cache, of those slots that a window shows; for many queries once for each MOST_ROWS of
them. FLOPs: 4 B H T S D.
Source: the split over keys is that of Dao et al., "Flash-Decoding" (2023).
"""

from typing import NamedTuple

import numpy as np
from numba import prange

from xplm_numpy.arrays import empty
from xplm_numpy.jit import parallel, serial
from xplm_numpy.key_block import (
    HIDDEN,
    KEYS,
    add_part,
    attend_rows,
    begin_row,
    end_row,
)
from xplm_numpy.narrow import bits, widen

MOST_ROWS = 48
"""Queries that meet a block of keys at a time, those of all heads that read it together."""

FEW_QUERIES = 4
"""Queries of a head up to which the blocks of keys are shared out among threads."""

NO_PADDING = np.empty((0, 0), np.int64)
"""What `attend` is given as `first` where every query sees from slot 0 on."""

NO_SINKS = np.empty(0, np.float32)
"""What it is given as `sinks` where heads have none."""


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


class Slots(NamedTuple):
    """Where in arrays of keys and values the blocks of slots of each row are, counted in slots of such an array."""

    places: np.ndarray  # (B, blocks) int64, the first slot of the first head
    heads: int  # key/value heads
    head_slots: int  # from one head to the next


def dense_slots(keys):
    """Of keys (B, K, slots, D)."""
    B, K, slots = keys.shape[:3]
    return Slots(np.arange(B)[:, None] * (K * slots) + np.arange(0, slots, KEYS), K, slots)


def paged_slots(keys, pages):
    """Of a pool of keys (K, pages, KEYS, D), by a PageMap: its pages are such blocks."""
    K, n_pages = keys.shape[:2]
    return Slots(pages.table * KEYS, K, n_pages * KEYS)


def attend_any(q, k, v, slots, first, sinks, starts, scale, window, cap):
    """y (B, H, T, Dv) and lse (B, H, T), float32, not rounded, of any number of queries.

    Args:
        q: (B, H, T, D) as stored.
        k: keys (..., D) as stored, dense.
        v: values (..., Dv) as stored, dense.
        slots: where they are.
        first: (B, T) int64, or NO_PADDING.
        sinks: (H,), or NO_SINKS.
        starts: (B,) int64, slots of the first queries. Slots from a row's start + T on are not read.
        scale: of scores.
        window: slots that a query sees; 0 for all.
        cap: of scores; 0 for none.
    """
    compute = attend if q.shape[2] <= FEW_QUERIES else attend_many
    seen = np.float32(scale), window or 0, np.float32(cap or 0.0)
    return compute(q, k, v, *slots, first, sinks, starts, *seen)


@parallel()
def attend(q, k, v, places, K, head_slots, first, sinks, starts, scale, window, cap):
    """`attend_any` of a few queries: each block of keys is a unit of work."""
    low, length, blocks = cut(starts, q.shape[2], window)
    parts = make_parts(q, K, v.shape[3], blocks)
    for unsigned in prange(len(q) * K * blocks):
        attend_block(
            np.int64(unsigned), q, k, v, places, K, head_slots, first, starts, scale, window, cap, low, length, parts
        )  # fmt: skip
    return join(parts, sinks, q)


@parallel()
def attend_many(q, k, v, places, K, head_slots, first, sinks, starts, scale, window, cap):
    """`attend_any` of many queries: as many as meet a block of keys together are a unit of work."""
    B, H, T, _ = q.shape
    y, lse = empty((B, H, T, v.shape[3])), empty((B, H, T))
    queries = max(1, MOST_ROWS // (H // K))
    tiles = (T + queries - 1) // queries
    for unsigned in prange(B * K * tiles):
        unit = np.int64(unsigned)
        b, head, i = unit // tiles // K, unit // tiles % K, unit % tiles
        i = (
            i // 2 if i % 2 == 0 else tiles - 1 - i // 2
        )  # late queries see more: threads get as many of both
        _attend_queries(
            b, head, i * queries, min(T, (i + 1) * queries), q, k, v, places, K, head_slots, first, sinks,
            starts, scale, window, cap, y, lse,
        )  # fmt: skip
    return y, lse


@serial()
def _attend_queries(
    b, head, begin, end, q, k, v, places, K, head_slots, first, sinks, starts, scale, window, cap, y, lse
):  # fmt: skip
    """Queries begin .. end - 1 of the heads that read a key/value head."""
    D, Dv = k.shape[3], v.shape[3]
    G = q.shape[1] // K
    R = (end - begin) * G
    rows, scores, a = empty((R, D)), empty((R, KEYS)), empty((R, Dv))
    m, total, M, L, sums = empty((R,)), empty((R,)), empty((R,)), empty((R,)), empty((R, Dv))
    lows, highs = np.empty(R, np.int64), np.empty(R, np.int64)
    keys, values = k.reshape(k.size), v.reshape(v.size)
    copy_queries(q, b, head * G, G, begin, end, scale, rows)
    for r in range(R):
        begin_row(sink_of(sinks, head * G + r % G), r, M, L, sums[r])

    start = starts[b]
    lowest = max(0, start + begin - window + 1) if window > 0 else 0
    for slot in range(lowest // KEYS * KEYS, start + end, KEYS):
        at = places[b, slot // KEYS] + head * head_slots
        find_seen(first, b, start, window, slot, G, begin, end, lows, highs)
        attend_rows(
            rows, keys, at * D, D, values, at * Dv, Dv, lows, highs, cap, scores, m, total, a
        )  # fmt: skip
        for r in range(R):
            add_part(m, total, a, r, r, M, L, sums[r])

    for r in range(R):
        h, t = head * G + r % G, begin + r // G
        lse[b, h, t] = end_row(r, M, L, sums[r])
        for d in range(Dv):
            y[b, h, t, d] = sums[r, d]


@serial()
def cut(starts, T, window):
    """The first slot of the first block that T queries of any row see; the slots of a block; how many blocks there are.

    From the earliest start of a row and the latest.
    """
    earliest, latest = starts[0], starts[0]
    for start in starts:
        earliest, latest = min(earliest, start), max(latest, start)
    low = max(0, earliest - window + 1) // KEYS * KEYS if window > 0 else 0
    return low, KEYS, (latest + T - low + KEYS - 1) // KEYS


@serial()
def make_parts(q, K, Dv, blocks):
    """m and l (B, K, blocks, R) and a (B, K, blocks, R, Dv), of the R = T G rows that read a key/value head."""
    B, H, T, _ = q.shape
    R = H // K * T
    m, total = empty((B, K, blocks, R)), empty((B, K, blocks, R))
    return m, total, empty((B, K, blocks, R, Dv))


@serial()
def attend_block(
    unit, q, k, v, places, K, head_slots, first, starts, scale, window, cap, low, length, parts
):  # fmt: skip
    """The part of one of the B K blocks; arguments as `attend_any`'s, and as `cut` and `make_parts` have them."""
    T, D = q.shape[2:]
    Dv = v.shape[3]
    G = q.shape[1] // K
    blocks = parts[0].shape[2]
    b, head, block = unit // blocks // K, unit // blocks % K, unit % blocks
    at = places[b, low // length + block] + head * head_slots
    rows, scores = empty((T * G, D)), empty((T * G, KEYS))
    lows, highs = np.empty(T * G, np.int64), np.empty(T * G, np.int64)
    copy_queries(q, b, head * G, G, 0, T, scale, rows)
    find_seen(first, b, starts[b], window, low + block * length, G, 0, T, lows, highs)
    attend_rows(
        rows, k.reshape(k.size), at * D, D, v.reshape(v.size), at * Dv, Dv, lows, highs, cap, scores,
        parts[0][b, head, block], parts[1][b, head, block], parts[2][b, head, block],
    )  # fmt: skip


@serial()
def copy_queries(q, b, h, G, begin, end, scale, rows):
    """rows (R, D) = scale q, of the queries begin .. end - 1 of G heads from h on, those of one query together."""
    for t in range(begin, end):
        for g in range(G):
            for d in range(q.shape[3]):
                rows[(t - begin) * G + g, d] = widen(q[b, h + g, t, d]) * scale


@serial()
def find_seen(first, b, start, window, slot, G, begin, end, lows, highs):
    """Of each row the keys lows .. highs - 1 that it sees of the block from `slot` on; G rows to a query."""
    for t in range(begin, end):
        lowest = 0
        if window > 0:
            lowest = max(lowest, start + t - window + 1)
        if len(first) > 0:
            lowest = max(lowest, first[b, t])
        low, high = max(0, lowest - slot), min(KEYS, start + t + 1 - slot)
        if low >= high:
            low, high = 0, 0
        for g in range(G):
            lows[(t - begin) * G + g], highs[(t - begin) * G + g] = low, high


@serial()
def sink_of(sinks, h):
    """The sink of head h; -inf where there are none."""
    return sinks[h] if len(sinks) > 0 else HIDDEN


@serial()
def join(parts, sinks, q):
    """y (B, H, T, Dv) and lse (B, H, T) from the parts of all blocks."""
    B, H, T, _ = q.shape
    m, total, a = parts
    K = m.shape[1]
    G = H // K
    y, lse = empty((B, H, T, a.shape[4])), empty((B, H, T))
    state = empty((2,))
    for b in range(B):
        for h in range(H):
            for t in range(T):
                r = t * G + h % G
                begin_row(sink_of(sinks, h), 0, state[:1], state[1:], y[b, h, t])
                for block in range(m.shape[2]):
                    add_part(
                        m[b, h // G, block], total[b, h // G, block], a[b, h // G, block], r,
                        0, state[:1], state[1:], y[b, h, t],
                    )  # fmt: skip
                lse[b, h, t] = end_row(0, state[:1], state[1:], y[b, h, t])
    return y, lse
