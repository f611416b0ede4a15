"""Norm, attention over the cache and residual in one call: `xplm.kernels.fusions.norm_attention_residual`.

Bytes: those of the four weights, C (H + K) (D + Dv) numbers, and the cache's (`xplm_numpy.attention_decode`); FLOPs:
2 B of each weight, beside attention's. The rotation is of a few hundred numbers, which one thread has done before a
second has woken up.
"""

import numpy as np
from numba import prange

from xplm.kernels.fusions.norm_attention_residual import norm_attention_residual as portable
from xplm.kernels.parts.norms import RMS
from xplm.kernels.rope import HALVES, NEIGHBOURS
from xplm_numpy.arrays import empty
from xplm_numpy.attention_decode import (
    NO_PADDING,
    attend_block,
    cut,
    dense_slots,
    join,
    make_parts,
    paged_slots,
    sink_bits,
)
from xplm_numpy.dot import multiply_add
from xplm_numpy.gemv import count_blocks, multiply
from xplm_numpy.halves import KINDS, add_branch, finish_rows, norm_bits, normalise
from xplm_numpy.jit import exact, parallel
from xplm_numpy.key_block import KEYS
from xplm_numpy.narrow import (
    FLOAT32,
    alike,
    bias_bits,
    bits,
    in_float32,
    narrow,
    takes,
    widen,
    widen_rows,
)

NOT_ROTATED = np.empty((1, 1, 1, 0), np.float32)
"""Tables of no pair."""


def norm_attention_residual(
    x, norm, q_weight, k_weight, v_weight, o_weight, q_bias, k_bias, v_bias, o_bias, q_norm, k_norm, sinks, cos,
    sin, cache, rows, output_norm=None, *, scale, window=None, cap=None, pairs=HALVES, branch_scale=1.0,
    norm_kind=RMS, eps, island=None,
):  # fmt: skip
    weights, biases = (q_weight, k_weight, v_weight, o_weight), (q_bias, k_bias, v_bias, o_bias)
    norms, (keys, values, _, _) = (q_norm, k_norm), cache
    cos_or_empty, sin_or_empty = (NOT_ROTATED, NOT_ROTATED) if cos is None else (cos, sin)
    is_float32 = cos_or_empty.dtype == sin_or_empty.dtype == FLOAT32 and in_float32(island)
    vectors = norm, *biases, *norms, sinks, output_norm
    is_taken = takes(x, *weights, *vectors, keys, values) and alike(weights[:3])
    is_writable = keys.flags.carray and values.flags.carray
    if x.shape[1] != 1 or not is_float32 or not is_taken or not is_writable:
        return portable(
            x, norm, *weights, *biases, *norms, sinks, cos, sin, cache, rows, output_norm, scale=scale, window=window,
            cap=cap, pairs=pairs, branch_scale=branch_scale, norm_kind=norm_kind, eps=eps, island=island,
        )  # fmt: skip

    y = np.empty(x.shape, x.dtype)
    compute(
        bits(x),
        norm_bits(norm, norm_kind),
        *map(bits, weights),
        *map(bias_bits, biases, weights),
        *(norm_bits(part, norm_kind) for part in norms),
        sink_bits(sinks),
        norm_bits(output_norm, norm_kind),
        bits(cos_or_empty),
        bits(sin_or_empty),
        bits(keys),
        bits(values),
        *find_slots(cache, rows),
        np.asarray(rows.starts, np.int64),
        np.float32(scale),
        window or 0,
        np.float32(cap or 0.0),
        pairs == NEIGHBOURS,
        np.float32(branch_scale),
        KINDS[norm_kind],
        np.float32(eps),
        bits(y),
    )
    return y


def find_slots(cache, rows):
    """Where the slots of a layer's cache are, which has one more for each row."""
    keys, pages = cache.keys, cache.map
    slots = dense_slots(keys) if pages is None else paged_slots(keys, pages)
    capacity = keys.shape[2] if pages is None else slots.places.shape[1] * KEYS
    assert max(rows.begins) < capacity, "a cache is as large as its capacity; grow it"
    return slots


@parallel()
def compute(
    x, norm, q_weight, k_weight, v_weight, o_weight, q_bias, k_bias, v_bias, o_bias, q_norm, k_norm, sinks,
    output_norm, cos, sin, keys, values, places, K, head_slots, starts, scale, window, cap, are_neighbours,
    branch_scale, kind, eps, y,
):  # fmt: skip
    B, _, C = x.shape
    D, Dv = keys.shape[3], values.shape[3]
    rows = widen_rows(x.reshape(B, C))
    normalise(rows, norm, kind, eps, x)
    q_sums = empty((B, len(q_weight)))
    k_sums = empty((B, len(k_weight)))
    v_sums = empty((B, len(v_weight)))

    q_end = count_blocks(q_weight)
    k_end = q_end + count_blocks(k_weight)
    v_end = k_end + count_blocks(v_weight)
    for unsigned in prange(v_end):
        block = np.int64(unsigned)
        if block < q_end:
            weight, sums, begin = q_weight, q_sums, 0
        elif block < k_end:
            weight, sums, begin = k_weight, k_sums, q_end
        else:
            weight, sums, begin = v_weight, v_sums, k_end
        multiply(rows, weight, block - begin, sums)

    finish_rows(v_sums, v_bias, x)
    for is_k in range(2):
        sums, bias, own = (k_sums, k_bias, k_norm) if is_k else (q_sums, q_bias, q_norm)
        finish_rows(sums, bias, x)
        normalise(sums, own, kind, eps, x)
    q, k = empty((B, len(q_weight) // D, 1, D)), empty((D,))
    all_keys, all_values = keys.reshape(keys.size), values.reshape(values.size)
    for b in range(B):
        for h in range(q.shape[1]):
            head = q_sums[b, h * D : (h + 1) * D]
            _rotate(head, b, cos, sin, are_neighbours, x, q[b, h, 0])
        slot = places[b, starts[b] // KEYS] + starts[b] % KEYS
        for h in range(K):
            head = k_sums[b, h * D : (h + 1) * D]
            _rotate(head, b, cos, sin, are_neighbours, x, k)
            at = slot + h * head_slots
            _store(k, all_keys[at * D : (at + 1) * D])
            _store(v_sums[b, h * Dv : (h + 1) * Dv], all_values[at * Dv : (at + 1) * Dv])

    # as `attend`, which is a kernel of its own
    low, length, blocks = cut(starts, 1, window)
    parts = make_parts(q, K, Dv, blocks)
    for unit in prange(B * K * blocks):
        attend_block(
            np.int64(unit), q, keys, values, places, K, head_slots, NO_PADDING, starts, scale, window, cap, low, length,
            parts,
        )  # fmt: skip
    joined = join(parts, sinks, q)[0].reshape(B, o_weight.shape[1])
    finish_rows(joined, o_bias[:0], x)

    o_sums = empty((B, C))
    for unsigned in prange(count_blocks(o_weight)):
        multiply(joined, o_weight, np.int64(unsigned), o_sums)
    add_branch(o_sums, o_bias, output_norm, kind, eps, branch_scale, x, y)


@exact()
def _store(row, slot):
    for d in range(len(slot)):
        slot[d] = narrow(row[d], slot)


@exact()
def _rotate(head, b, cos, sin, are_neighbours, like, y):
    """y (D,): a head (D,) of row b, turned, rounded as the array `like` stores it.   cos, sin (B or 1, 1, 1, R/2)"""
    half = cos.shape[3]
    row = b if len(cos) > 1 else 0
    for i in range(half):
        first, second = (2 * i, 2 * i + 1) if are_neighbours else (i, half + i)
        x1, x2, c, s = head[first], head[second], cos[row, 0, 0, i], sin[row, 0, 0, i]
        y[first] = widen(narrow(multiply_add(x1, c, -x2 * s), like))
        y[second] = widen(narrow(multiply_add(x2, c, x1 * s), like))
    for i in range(2 * half, len(head)):
        y[i] = head[i]
