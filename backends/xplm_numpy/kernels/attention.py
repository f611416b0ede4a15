"""Causal grouped-query attention, fused. Derivation and signatures: `xplm.kernels.attention`.

Scores exist for one block of 64 queries and 64 keys at a time. Going forward, a block of queries keeps of each row the
maximum m, the sum l of exp(score - m) and the unfinished y; where a block of keys raises m, both are scaled down:

    m' = max(m, max(s)),  a = exp(m - m'),  p = exp(s - m'),  l' = a l + sum(p),  y' = a y + p v

Where its head has a sink, a row begins with m = sink and l = 1.

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
from xplm_numpy.attention_decode import (
    FEW_QUERIES,
    attend_any,
    cache_bits,
    dense_slots,
    first_slots,
    sink_bits,
    sink_of,
)
from xplm_numpy.exp import exp
from xplm_numpy.jit import parallel, serial
from xplm_numpy.narrow import bits, in_float32, takes
from xplm_numpy.score_block import (
    BLOCK,
    LOWEST,
    add_seen,
    add_transposed,
    cap_scores,
    copy_columns,
    copy_rows,
    differentiate,
    exponentiate,
    exponentiate_back,
    hide,
    put_scores,
    put_slopes,
    round_up,
)
from xplm_numpy.tile import COLUMNS, ROWS
from xplm_numpy.whole import narrowed, widened

HEADS = 8
"""Key/value heads that are copied at a time, so that their copies are still in cache when they are read."""


def attention_fwd(
    q, k, v, first=None, sinks=None, *, start, scale, window=None, cap=None, island=None
):
    if not takes(q, k, v, sinks) or not in_float32(island) or k.shape != v.shape:
        options = {"scale": scale, "window": window, "cap": cap, "island": island}
        return portable.attention_fwd(q, k, v, first, sinks, start=start, **options)
    B, H, T, _ = q.shape
    if start > 0 and T <= FEW_QUERIES:  # decoding: the cache is read once, and nothing is copied
        seen = {"start": start, "scale": scale, "window": window, "cap": cap}
        return attention_by_blocks(q, k, v, first, sinks, **seen)

    arrays = [_joined(x) for x in (q, k, v)]
    wide_y = np.empty(arrays[0].shape, np.float32)
    lse = np.empty((B, H, T), np.float32)
    lowest = _lowest_slots(B, T, first, start, window)
    seen = start, np.float32(scale), np.float32(cap or 0.0)
    _forward(*arrays, sink_bits(sinks), lowest, *seen, wide_y, lse)
    y = _parted(wide_y, q.dtype)
    return y, AttentionSaved(q, k, v, first, sinks, y, lse, start, scale, window, cap)


def attention_by_blocks(q, k, v, first, sinks, *, start, scale, window, cap):
    """`attention_fwd` as `xplm_numpy.attention_decode` computes it, of arrays that kernels take."""
    keys, values = cache_bits(k), cache_bits(v)
    starts = np.full(len(q), start, np.int64)
    given = first_slots(first), sink_bits(sinks), starts, scale, window, cap
    sums, lse = attend_any(bits(q), keys, values, dense_slots(keys), *given)
    y = sums.astype(q.dtype, copy=False)
    return y, AttentionSaved(q, k, v, first, sinks, y, lse, start, scale, window, cap)


def attention_bwd(dy, saved):
    q, k, v, first, sinks, y, lse, start, scale, window, cap = saved
    if not takes(dy, q, k, v, sinks, y) or lse.dtype != np.float32 or k.shape != v.shape:
        return portable.attention_bwd(dy, saved)

    arrays = [_joined(x) for x in (dy, q, k, v, y)]
    gradients = [np.empty(x.shape, np.float32) for x in arrays[1:4]]
    lowest = _lowest_slots(q.shape[0], q.shape[2], first, start, window)
    delta = np.empty(lse.shape, np.float32)
    given = np.ascontiguousarray(lse), lowest, start, np.float32(scale), np.float32(cap or 0.0)
    _backward(*arrays, *given, *gradients, delta)
    dq, dk, dv = (_parted(dx, x.dtype) for dx, x in zip(gradients, (q, k, v), strict=True))
    dsinks = None if sinks is None else portable.sinks_bwd(sinks, lse, delta)
    return dq, dk, dv, None, dsinks


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
def _forward(q, k, v, sinks, lowest, start, scale, cap, y, lse):
    B, T, H, D = q.shape
    K = k.shape[2]
    S = start + T
    width = round_up(D, COLUMNS)
    n_rows, n_keys = round_up(T, BLOCK) // BLOCK, round_up(S, BLOCK) // BLOCK

    columns = empty((HEADS, n_keys, width, BLOCK))  # k^T, a block at a time
    values = empty((HEADS, n_keys, BLOCK, width))
    for begin in range(0, B * K, HEADS):
        heads = min(HEADS, B * K - begin)
        for unit in prange(heads * n_keys):
            _copy_block(np.int64(unit), begin, k, v, S, columns, values)
        for unit in prange(heads * H // K * n_rows):
            _attend(
                np.int64(unit), begin, K, q, columns, values, sinks, lowest, start, scale, cap, y, lse
            )  # fmt: skip


@serial()
def _copy_block(unit, first_head, k, v, S, columns, values):
    """A block of one key/value head."""
    n_keys = columns.shape[1]
    place, j = unit // n_keys, unit % n_keys
    b, kv = (first_head + place) // k.shape[2], (first_head + place) % k.shape[2]
    copy_columns(k[b, :, kv], j * BLOCK, S, columns[place, j])
    copy_rows(v[b, :, kv], j * BLOCK, S, np.float32(1.0), values[place, j])


@serial()
def _attend(
    unit, first_head, K, all_q, all_columns, all_values, sinks, all_lowest, start, scale, cap, all_y, all_lse
):  # fmt: skip
    """A block of one head's queries against all keys that they see."""
    T, H, D = all_q.shape[1:]
    G = H // K
    n_rows = round_up(T, BLOCK) // BLOCK
    row, begin = unit // n_rows, unit % n_rows * BLOCK
    b, h = (first_head * G + row) // H, (first_head * G + row) % H
    q, y, lse, lowest = all_q[b, :, h], all_y[b, :, h], all_lse[b, h], all_lowest[b]
    columns, values = all_columns[row // G], all_values[row // G]

    width = values.shape[2]
    n = min(BLOCK, len(q) - begin)
    rows = round_up(n, ROWS)
    queries = empty((BLOCK, width))
    copy_rows(q, begin, len(q), scale, queries)
    scores = empty((BLOCK, BLOCK))
    sums = zeros((BLOCK, width))
    highest, totals = empty((BLOCK,)), empty((BLOCK,))
    sink = sink_of(sinks, h)
    for r in range(BLOCK):
        highest[r] = sink
        totals[r] = np.float32(0.0) if sink == LOWEST else exp(sink - sink)  # 1, or NaN

    for j in range(_lowest_block(lowest, begin, n), (start + begin + n - 1) // BLOCK + 1):
        reach = start + begin - j * BLOCK  # row r sees columns up to reach + r
        put_scores(queries, columns[j], scores, rows, width, reach)
        cap_scores(scores, n, reach, cap)
        hide(scores, lowest, begin, n, j * BLOCK, reach)
        exponentiate(scores, n, reach, highest, totals, sums)
        add_seen(scores, values[j], sums, rows, reach)

    for r in range(n):
        total = totals[r]
        sees = lowest[begin + r] <= start + begin + r
        lse[begin + r] = highest[r] + np.log(total) if sees else sink
        scale_back = np.float32(1.0) / total if sees else np.float32(0.0)
        for d in range(D):
            y[begin + r, d] = sums[r, d] * scale_back


@parallel()
def _backward(dy, q, k, v, y, lse, lowest, start, scale, cap, dq, dk, dv, delta):
    for unit in prange(k.shape[0] * k.shape[2]):
        _attend_back(
            np.int64(unit), dy, q, k, v, y, lse, lowest, start, scale, cap, dq, dk, dv, delta
        )


@serial()
def _attend_back(
    unit, all_dy, all_q, all_k, all_v, all_y, all_lse, all_lowest, start, scale, cap, all_dq, all_dk, all_dv,
    all_delta,
):  # fmt: skip
    """One key/value head, and the query heads that read it, one after another."""
    _, T, H, D = all_q.shape
    _, S, K, _ = all_k.shape
    G = H // K
    b, kv = unit // K, unit % K
    k, v, dk, dv = all_k[b, :, kv], all_v[b, :, kv], all_dk[b, :, kv], all_dv[b, :, kv]
    lowest = all_lowest[b]
    width = round_up(D, COLUMNS)
    n_keys = round_up(S, BLOCK) // BLOCK
    key_columns = empty((n_keys, width, BLOCK))  # k^T and v^T, a block at a time
    value_columns = empty((n_keys, width, BLOCK))
    keys = empty((n_keys, BLOCK, width))
    for j in range(n_keys):
        copy_columns(k, j * BLOCK, S, key_columns[j])
        copy_columns(v, j * BLOCK, S, value_columns[j])
        copy_rows(k, j * BLOCK, S, np.float32(1.0), keys[j])

    queries, dys, dqueries = empty((BLOCK, width)), empty((BLOCK, width)), empty((BLOCK, width))
    probs, dscores = empty((BLOCK, BLOCK)), empty((BLOCK, BLOCK))
    slopes = empty((BLOCK, BLOCK))  # of the cap
    dkeys = zeros((n_keys, BLOCK, width))
    dvalues = zeros((n_keys, BLOCK, width))
    for h in range(kv * G, (kv + 1) * G):
        q, dy, y, dq = all_q[b, :, h], all_dy[b, :, h], all_y[b, :, h], all_dq[b, :, h]
        lse, delta = all_lse[b, h], all_delta[b, h]
        for begin in range(0, T, BLOCK):
            n = min(BLOCK, T - begin)
            rows = round_up(n, ROWS)
            copy_rows(q, begin, T, scale, queries)
            copy_rows(dy, begin, T, np.float32(1.0), dys)
            _row_products(dy, y, begin, n, delta[begin:])
            dqueries[:] = np.float32(0.0)

            for j in range(_lowest_block(lowest, begin, n), (start + begin + n - 1) // BLOCK + 1):
                reach = start + begin - j * BLOCK

                # P = exp(S - lse),  S = cap tanh(scale q k^T / cap)
                put_scores(queries, key_columns[j], probs, rows, width, reach)
                cap_scores(probs, n, reach, cap)
                put_slopes(probs, n, reach, cap, slopes)
                hide(probs, lowest, begin, n, j * BLOCK, reach)
                exponentiate_back(probs, lse, begin, n, reach)

                # y = P v
                add_transposed(probs, dys, dvalues[j], n, reach)
                put_scores(dys, value_columns[j], dscores, rows, width, reach)

                # P = softmax(S),  S = cap tanh((scale q) k^T / cap)
                differentiate(probs, dscores, delta[begin:], n, reach, cap, slopes)
                add_seen(dscores, keys[j], dqueries, rows, reach)
                add_transposed(dscores, queries, dkeys[j], n, reach)

            for r in range(n):
                for d in range(D):
                    dq[begin + r, d] = dqueries[r, d] * scale

    for s in range(S):
        for d in range(D):
            dk[s, d] = dkeys[s // BLOCK, s % BLOCK, d]
            dv[s, d] = dvalues[s // BLOCK, s % BLOCK, d]


@serial()
def _lowest_block(lowest, begin, n):
    """The first block of keys that any of n queries sees."""
    slot = lowest[begin]
    for r in range(1, n):
        slot = min(slot, lowest[begin + r])
    return slot // BLOCK


@serial()
def _row_products(dy, y, begin, n, delta):
    """delta_t = dy_t . y_t"""
    for r in range(n):
        total = np.float32(0.0)
        for d in range(dy.shape[1]):
            total += dy[begin + r, d] * y[begin + r, d]
        delta[r] = total
