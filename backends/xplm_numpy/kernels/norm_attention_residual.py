"""Norm, attention over the cache and residual in one call: `xplm.kernels.fusions.norm_attention_residual`.

Bytes: those of the four weights, C (H + K) (D + Dv) numbers, and the cache's (`xplm_numpy.attention_decode`); FLOPs:
2 B of each weight, beside attention's. The norms and the rotation are of a few hundred numbers, which one thread has
done before a second has woken up.
"""

import numpy as np
from numba import prange

from xplm.kernels.fusions.norm_attention_residual import norm_attention_residual as portable
from xplm.kernels.rope import HALVES, NEIGHBOURS
from xplm_numpy.arrays import empty
from xplm_numpy.attention_decode import (
    NO_PADDING,
    attend_block,
    cut,
    join,
    make_parts,
    sink_bits,
)
from xplm_numpy.gemv import count_blocks, multiply
from xplm_numpy.jit import parallel, serial
from xplm_numpy.kernels.norm_mlp_residual import add_residual, normalise
from xplm_numpy.narrow import FLOAT32, alike, bias_bits, bits, in_float32, narrow, takes, widen

NOT_ROTATED = np.empty((1, 1, 1, 0), np.float32)
"""Tables of no pair."""


def norm_attention_residual(
    x, norm, q_weight, k_weight, v_weight, o_weight, q_bias, k_bias, v_bias, o_bias, q_norm, k_norm, sinks, cos,
    sin, cache, rows, *, scale, window=None, cap=None, pairs=HALVES, eps, island=None,
):  # fmt: skip
    weights, biases = (q_weight, k_weight, v_weight, o_weight), (q_bias, k_bias, v_bias, o_bias)
    norms, (keys, values, _, pages) = (q_norm, k_norm), cache
    cos_or_empty, sin_or_empty = (NOT_ROTATED, NOT_ROTATED) if cos is None else (cos, sin)
    is_float32 = cos_or_empty.dtype == sin_or_empty.dtype == FLOAT32 and in_float32(island)
    is_taken = takes(x, norm, *weights, *biases, *norms, sinks, keys, values) and alike(weights[:3])
    is_writable = pages is None and keys.flags.carray and values.flags.carray
    if x.shape[1] != 1 or not is_float32 or not is_taken or not is_writable:
        seen = {"scale": scale, "window": window, "cap": cap, "pairs": pairs}
        arrays = *weights, *biases, *norms, sinks, cos, sin
        return portable(x, norm, *arrays, cache, rows, **seen, eps=eps, island=island)

    assert max(rows.begins) < keys.shape[2], "a cache is as large as its capacity; grow it"
    y = np.empty(x.shape, x.dtype)
    compute(
        bits(x),
        bits(norm),
        *map(bits, weights),
        *map(bias_bits, biases, weights),
        *(bias_bits(part, norm) for part in norms),
        sink_bits(sinks),
        bits(cos_or_empty),
        bits(sin_or_empty),
        bits(keys),
        bits(values),
        np.asarray(rows.starts, np.int64),
        np.float32(scale),
        window or 0,
        np.float32(cap or 0.0),
        pairs == NEIGHBOURS,
        np.float32(eps),
        bits(y),
    )
    return y


@parallel()
def compute(
    x, norm, q_weight, k_weight, v_weight, o_weight, q_bias, k_bias, v_bias, o_bias, q_norm, k_norm, sinks, cos,
    sin, keys, values, starts, scale, window, cap, are_neighbours, eps, y,
):  # fmt: skip
    B, _, C = x.shape
    D, Dv = keys.shape[3], values.shape[3]
    rows = normalise(x.reshape(B, C), norm, eps)
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

    _finish_rows(q_sums, q_bias, x)
    _finish_rows(k_sums, k_bias, x)
    _finish_rows(v_sums, v_bias, x)
    q, k = empty((B, len(q_weight) // D, 1, D)), empty((D,))
    for b in range(B):
        for h in range(q.shape[1]):
            head = q_sums[b, h * D : (h + 1) * D]
            _normalise_head(head, q_norm, eps, x)
            _rotate(head, b, cos, sin, are_neighbours, x, q[b, h, 0])
        for h in range(keys.shape[1]):
            head = k_sums[b, h * D : (h + 1) * D]
            _normalise_head(head, k_norm, eps, x)
            _rotate(head, b, cos, sin, are_neighbours, x, k)
            for d in range(D):
                keys[b, h, starts[b], d] = narrow(k[d], keys)
            for d in range(Dv):
                values[b, h, starts[b], d] = narrow(v_sums[b, h * Dv + d], values)

    # as `attend`, which is a kernel of its own
    low, length, blocks = cut(starts, 1, window)
    parts = make_parts(q, values, blocks)
    for unit in prange(B * keys.shape[1] * blocks):
        attend_block(
            np.int64(unit), q, keys, values, NO_PADDING, starts, scale, window, cap, low, length, parts
        )  # fmt: skip
    joined = join(parts, sinks, q)[0].reshape(B, o_weight.shape[1])
    _finish_rows(joined, o_bias[:0], x)

    sums = empty((B, C))
    for unsigned in prange(count_blocks(o_weight)):
        block = np.int64(unsigned)
        multiply(joined, o_weight, block, sums)
        add_residual(sums, o_bias, block, x, y)


@serial()
def _finish_rows(sums, bias, like):
    """Products (B, N) with their bias, in place, rounded as the array `like` stores them.

    As `finish`, by loops over whole rows, which fill vector registers.
    """
    B, N = sums.shape
    for b in range(B):
        if len(bias) > 0:
            for n in range(N):
                sums[b, n] += widen(bias[n])
        for n in range(N):
            sums[b, n] = widen(narrow(sums[b, n], like))


@serial()
def _normalise_head(head, weight, eps, like):
    """head / rms(head) * weight, in place, of a head (D,), rounded as the array `like` stores it; nothing without a
    weight.
    """
    if len(weight) == 0:
        return
    total = np.float32(0.0)
    for d in range(len(head)):
        total += head[d] * head[d]
    rstd = np.float32(1.0) / np.sqrt(total / np.float32(len(head)) + eps)
    for d in range(len(head)):
        n = widen(narrow(head[d] * rstd, like))
        head[d] = widen(narrow(n * widen(narrow(widen(weight[d]), like)), like))


@serial()
def _rotate(head, b, cos, sin, are_neighbours, like, y):
    """y (D,): a head (D,) of row b, turned, rounded as the array `like` stores it.   cos, sin (B or 1, 1, 1, R/2)"""
    half = cos.shape[3]
    row = b if len(cos) > 1 else 0
    for i in range(half):
        first, second = (2 * i, 2 * i + 1) if are_neighbours else (i, half + i)
        x1, x2, c, s = head[first], head[second], cos[row, 0, 0, i], sin[row, 0, 0, i]
        y[first] = widen(narrow(x1 * c - x2 * s, like))
        y[second] = widen(narrow(x2 * c + x1 * s, like))
    for i in range(2 * half, len(head)):
        y[i] = head[i]
