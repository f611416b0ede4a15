"""Causal grouped-query attention, fused. Derivation and signatures: `xplm.kernels.attention`.

Scores exist for one block of 64 queries and 64 keys at a time. Going forward, a block of queries keeps of each row the
maximum m, the sum l of exp(score - m) and the unfinished y; where a block of keys raises m, both are scaled down:

    m' = max(m, max(s)),  a = exp(m - m'),  p = exp(s - m'),  l' = a l + sum(p),  y' = a y + p v

Going back, scores are made again from q and k, and p = exp(s - lse). Blocks that causality or the window hide are
never visited, nor is the part of a block right of the diagonal.

Sources: Milakov and Gimelshein, "Online normalizer calculation for softmax", arXiv:1805.02867, algorithm 3; Dao et al.,
"FlashAttention", arXiv:2205.14135, algorithms 1 and 4.

FLOPs of a visible pair of query and key: 4 D forward, 10 D backward, and an exponential each. Bytes: each operand is
read once and copied, padded to whole tiles; what is not a sum over keys stays in cache. Operands of 16 bits are widened
before, and results rounded after: 6 bytes a number, against compiling all of this for each dtype.
A head going forward, and a key/value head going back, is one thread's: the order of sums depends on shapes alone.
"""

import numpy as np
from numba import prange

from xplm.kernels import attention as portable
from xplm.kernels.attention import AttentionSaved
from xplm_numpy.arrays import empty, zeros
from xplm_numpy.attention_decode import attend, cache_bits, first_slots
from xplm_numpy.exp import exp
from xplm_numpy.jit import parallel, serial
from xplm_numpy.narrow import bits, in_float32, takes
from xplm_numpy.tile import COLUMNS, ROWS, put_product
from xplm_numpy.whole import narrowed, widened

BLOCK = 64
"""Queries, and keys, of a block of scores: 16 KiB of float32."""

HEADS = 8
"""Key/value heads that are copied at a time, so that their copies are still in cache when they are read."""

FEW_QUERIES = 4
"""Queries up to which a cache is attended to as in decoding."""

LOWEST = np.float32(-np.inf)


def attention_fwd(q, k, v, first=None, *, start, scale, window=None, island=None):
    if not takes(q, k, v) or not in_float32(island) or k.shape != v.shape:
        return portable.attention_fwd(
            q, k, v, first, start=start, scale=scale, window=window, island=island
        )
    B, H, T, _ = q.shape
    if start > 0 and T <= FEW_QUERIES:  # decoding: the cache is read once, and nothing is copied
        arrays = bits(q), cache_bits(k), cache_bits(v), first_slots(first)
        starts = np.full(B, start, np.int64)
        sums, lse = attend(*arrays, starts, np.float32(scale), window or 0)
        y = sums.astype(q.dtype, copy=False)
        return y, AttentionSaved(q, k, v, first, y, lse, start, scale, window)

    arrays = [_joined(x) for x in (q, k, v)]
    wide_y = np.empty(arrays[0].shape, np.float32)
    lse = np.empty((B, H, T), np.float32)
    lowest = _lowest_slots(B, T, first, start, window)
    _forward(*arrays, lowest, start, np.float32(scale), wide_y, lse)
    y = _parted(wide_y, q.dtype)
    return y, AttentionSaved(q, k, v, first, y, lse, start, scale, window)


def attention_bwd(dy, saved):
    q, k, v, first, y, lse, start, scale, window = saved
    if not takes(dy, q, k, v, y) or lse.dtype != np.float32 or k.shape != v.shape:
        return portable.attention_bwd(dy, saved)

    arrays = [_joined(x) for x in (dy, q, k, v, y)]
    gradients = [np.empty(x.shape, np.float32) for x in arrays[1:4]]
    lowest = _lowest_slots(q.shape[0], q.shape[2], first, start, window)
    _backward(*arrays, np.ascontiguousarray(lse), lowest, start, np.float32(scale), *gradients)
    dq, dk, dv = (_parted(dx, x.dtype) for dx, x in zip(gradients, (q, k, v), strict=True))
    return dq, dk, dv, None


def _joined(x):
    """x (B, heads, T, D) as kernels are given it, float32 (B, T, heads, D): dense, and mostly as it lies.

    One layout for all, because a kernel is compiled anew for each.
    """
    return widened(x.transpose(0, 2, 1, 3))


def _parted(x, dtype):
    """A result (B, T, heads, D) as (B, heads, T, D), which joined again is as it lies; rounded to its dtype."""
    return narrowed(x, dtype).transpose(0, 2, 1, 3)


def _lowest_slots(B, T, first, start, window):
    """The first slot that each query sees (B, T); the last is its own."""
    lowest = np.zeros((B, T), np.int64) if first is None else np.maximum(first, 0).astype(np.int64)
    if window is not None:
        lowest = np.maximum(lowest, np.arange(start - window + 1, start - window + 1 + T))
    return lowest


@parallel()
def _forward(q, k, v, lowest, start, scale, y, lse):
    B, T, H, D = q.shape
    K = k.shape[2]
    S = start + T
    width = _whole(D, COLUMNS)
    n_rows, n_keys = _whole(T, BLOCK) // BLOCK, _whole(S, BLOCK) // BLOCK

    columns = empty((HEADS, n_keys, width, BLOCK))  # k^T, a block at a time
    values = empty((HEADS, n_keys, BLOCK, width))
    for begin in range(0, B * K, HEADS):
        heads = min(HEADS, B * K - begin)
        for unit in prange(heads * n_keys):
            _copy_block(np.int64(unit), begin, k, v, S, columns, values)
        for unit in prange(heads * H // K * n_rows):
            _attend(np.int64(unit), begin, K, q, columns, values, lowest, start, scale, y, lse)


@serial()
def _copy_block(unit, first_head, k, v, S, columns, values):
    """A block of one key/value head."""
    n_keys = columns.shape[1]
    place, j = unit // n_keys, unit % n_keys
    b, kv = (first_head + place) // k.shape[2], (first_head + place) % k.shape[2]
    _copy_columns(k[b, :, kv], j * BLOCK, S, columns[place, j])
    _copy_rows(v[b, :, kv], j * BLOCK, S, np.float32(1.0), values[place, j])


@serial()
def _attend(
    unit, first_head, K, all_q, all_columns, all_values, all_lowest, start, scale, all_y, all_lse
):
    """A block of one head's queries against all keys that they see."""
    T, H, D = all_q.shape[1:]
    G = H // K
    n_rows = _whole(T, BLOCK) // BLOCK
    row, begin = unit // n_rows, unit % n_rows * BLOCK
    b, h = (first_head * G + row) // H, (first_head * G + row) % H
    q, y, lse, lowest = all_q[b, :, h], all_y[b, :, h], all_lse[b, h], all_lowest[b]
    columns, values = all_columns[row // G], all_values[row // G]

    width = values.shape[2]
    n = min(BLOCK, len(q) - begin)
    rows = _whole(n, ROWS)
    queries = empty((BLOCK, width))
    _copy_rows(q, begin, len(q), scale, queries)
    scores = empty((BLOCK, BLOCK))
    sums = zeros((BLOCK, width))
    highest = empty((BLOCK,))
    for r in range(BLOCK):
        highest[r] = LOWEST
    totals = zeros((BLOCK,))

    for j in range(_lowest_block(lowest, begin, n), (start + begin + n - 1) // BLOCK + 1):
        reach = start + begin - j * BLOCK  # row r sees columns up to reach + r
        _put_scores(queries, columns[j], scores, rows, width, reach)
        _hide(scores, lowest, begin, n, j * BLOCK, reach)
        _exponentiate(scores, n, reach, highest, totals, sums)
        _add_seen(scores, values[j], sums, rows, reach)

    for r in range(n):
        total = totals[r]
        sees = lowest[begin + r] <= start + begin + r
        lse[begin + r] = highest[r] + np.log(total) if sees else LOWEST
        scale_back = np.float32(1.0) / total if sees else np.float32(0.0)
        for d in range(D):
            y[begin + r, d] = sums[r, d] * scale_back


@parallel()
def _backward(dy, q, k, v, y, lse, lowest, start, scale, dq, dk, dv):
    for unit in prange(k.shape[0] * k.shape[2]):
        _attend_back(np.int64(unit), dy, q, k, v, y, lse, lowest, start, scale, dq, dk, dv)


@serial()
def _attend_back(
    unit, all_dy, all_q, all_k, all_v, all_y, all_lse, all_lowest, start, scale, all_dq, all_dk, all_dv
):  # fmt: skip
    """One key/value head, and the query heads that read it, one after another."""
    _, T, H, D = all_q.shape
    _, S, K, _ = all_k.shape
    G = H // K
    b, kv = unit // K, unit % K
    k, v, dk, dv = all_k[b, :, kv], all_v[b, :, kv], all_dk[b, :, kv], all_dv[b, :, kv]
    lowest = all_lowest[b]
    width = _whole(D, COLUMNS)
    n_keys = _whole(S, BLOCK) // BLOCK
    key_columns = empty((n_keys, width, BLOCK))  # k^T and v^T, a block at a time
    value_columns = empty((n_keys, width, BLOCK))
    keys = empty((n_keys, BLOCK, width))
    for j in range(n_keys):
        _copy_columns(k, j * BLOCK, S, key_columns[j])
        _copy_columns(v, j * BLOCK, S, value_columns[j])
        _copy_rows(k, j * BLOCK, S, np.float32(1.0), keys[j])

    queries, dys, dqueries = empty((BLOCK, width)), empty((BLOCK, width)), empty((BLOCK, width))
    probs, dscores = empty((BLOCK, BLOCK)), empty((BLOCK, BLOCK))
    delta = empty((BLOCK,))
    dkeys = zeros((n_keys, BLOCK, width))
    dvalues = zeros((n_keys, BLOCK, width))
    for h in range(kv * G, (kv + 1) * G):
        q, dy, y, dq = all_q[b, :, h], all_dy[b, :, h], all_y[b, :, h], all_dq[b, :, h]
        lse = all_lse[b, h]
        for begin in range(0, T, BLOCK):
            n = min(BLOCK, T - begin)
            rows = _whole(n, ROWS)
            _copy_rows(q, begin, T, scale, queries)
            _copy_rows(dy, begin, T, np.float32(1.0), dys)
            _row_products(dy, y, begin, n, delta)
            dqueries[:] = np.float32(0.0)

            for j in range(_lowest_block(lowest, begin, n), (start + begin + n - 1) // BLOCK + 1):
                reach = start + begin - j * BLOCK

                # P = exp(scale q k^T - lse)
                _put_scores(queries, key_columns[j], probs, rows, width, reach)
                _hide(probs, lowest, begin, n, j * BLOCK, reach)
                _exponentiate_back(probs, lse, begin, n, reach)

                # y = P v
                _add_transposed(probs, dys, dvalues[j], n, reach)
                _put_scores(dys, value_columns[j], dscores, rows, width, reach)

                # P = softmax(S),  S = (scale q) k^T
                for r in range(n):
                    for c in range(_extent(reach, r)):
                        dscores[r, c] = probs[r, c] * (dscores[r, c] - delta[r])
                _add_seen(dscores, keys[j], dqueries, rows, reach)
                _add_transposed(dscores, queries, dkeys[j], n, reach)

            for r in range(n):
                for d in range(D):
                    dq[begin + r, d] = dqueries[r, d] * scale

    for s in range(S):
        for d in range(D):
            dk[s, d] = dkeys[s // BLOCK, s % BLOCK, d]
            dv[s, d] = dvalues[s // BLOCK, s % BLOCK, d]


@serial()
def _whole(n, size):
    """n rounded up to a multiple."""
    return -(-n // size) * size


@serial()
def _extent(reach, r):
    """How many columns of row r hold scores: all that it sees, up to the end of its tile."""
    return max(0, min(BLOCK, _whole(reach + r // ROWS * ROWS + ROWS, COLUMNS)))


@serial()
def _lowest_block(lowest, begin, n):
    """The first block of keys that any of n queries sees."""
    slot = lowest[begin]
    for r in range(1, n):
        slot = min(slot, lowest[begin + r])
    return slot // BLOCK


@serial()
def _copy_rows(x, begin, end, scale, block):
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
def _copy_columns(x, begin, end, block):
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
def _put_scores(a, columns, scores, rows, depth, reach):
    """scores = a @ columns, as far as each row extends."""
    row = a.shape[1]
    for r in range(0, rows, ROWS):
        extent = _extent(reach, r)
        put_product(a, r * row, row, 1, columns, 0, scores, r * BLOCK, ROWS, depth, extent, False)


@serial()
def _add_seen(scores, values, sums, rows, reach):
    """sums += scores @ values, over the keys that a query sees."""
    width = values.shape[1]
    for r in range(0, rows, ROWS):
        depth = max(0, min(BLOCK, reach + r + ROWS))
        put_product(scores, r * BLOCK, BLOCK, 1, values, 0, sums, r * width, ROWS, depth, width, True)  # fmt: skip


@serial()
def _add_transposed(scores, a, sums, n, reach):
    """sums += scores^T @ a, over the queries that see a key."""
    width = a.shape[1]
    for c in range(0, min(BLOCK, reach + n), ROWS):
        r = max(0, c - reach)
        at = r * BLOCK + c
        put_product(scores, at, 1, BLOCK, a, r * width, sums, c * width, ROWS, n - r, width, True)


@serial()
def _hide(scores, lowest, begin, n, slot, reach):
    """-inf where row r does not see the slot of a column."""
    for r in range(n):
        extent = _extent(reach, r)
        for c in range(max(0, reach + r + 1), extent):
            scores[r, c] = LOWEST
        for c in range(min(extent, lowest[begin + r] - slot)):
            scores[r, c] = LOWEST


@serial()
def _exponentiate(scores, n, reach, highest, totals, sums):
    """Scores become exp(score - m); m, l and the sums of each row follow it."""
    for r in range(n):
        extent = _extent(reach, r)
        before = highest[r]
        m = before
        for c in range(extent):
            m = max(m, scores[r, c])
        highest[r] = m

        m = m if m > LOWEST else np.float32(0.0)
        total = np.float32(0.0)
        for c in range(extent):
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
def _exponentiate_back(scores, lse, begin, n, reach):
    """Scores become exp(score - lse); a row that sees nothing holds only hidden ones."""
    for r in range(n):
        shift = lse[begin + r]
        shift = shift if shift > LOWEST else np.float32(0.0)
        for c in range(_extent(reach, r)):
            scores[r, c] = exp(scores[r, c] - shift)


@serial()
def _row_products(dy, y, begin, n, delta):
    """delta_t = dy_t . y_t"""
    for r in range(n):
        total = np.float32(0.0)
        for d in range(dy.shape[1]):
            total += dy[begin + r, d] * y[begin + r, d]
        delta[r] = total
