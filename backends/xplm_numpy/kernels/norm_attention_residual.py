"""Norm, attention over the cache and residual in one call: `xplm.kernels.fusions.norm_attention_residual`.

Bytes: those of the four weights, 2 C (H + K) D numbers, and the cache's (`xplm_numpy.attention_decode`); FLOPs: 2 B of
each weight, beside attention's. The norm and the rotation are of a few hundred numbers, which one thread has done
before a second has woken up.
"""

import numpy as np
from numba import prange

from xplm.kernels.fusions.norm_attention_residual import norm_attention_residual as portable
from xplm_numpy.arrays import empty
from xplm_numpy.attention_decode import attend_block, cut, first_slots, join, make_parts
from xplm_numpy.gemv import count_blocks, finish, multiply
from xplm_numpy.jit import parallel, serial
from xplm_numpy.kernels.norm_mlp_residual import add_residual, normalise
from xplm_numpy.narrow import FLOAT32, alike, bias_bits, bits, in_float32, narrow, takes, widen


def norm_attention_residual(
    x, norm, q_weight, k_weight, v_weight, o_weight, q_bias, k_bias, v_bias, o_bias, cos, sin, cache, first,
    *, start, scale, window=None, eps, wide=None,
):  # fmt: skip
    weights, biases = (q_weight, k_weight, v_weight, o_weight), (q_bias, k_bias, v_bias, o_bias)
    keys, values, _ = cache
    is_float32 = cos.dtype == sin.dtype == FLOAT32 and in_float32(wide)
    is_taken = takes(x, norm, *weights, *biases, keys, values) and alike(weights[:3])
    is_writable = keys.flags.carray and values.flags.carray
    if x.shape[1] != 1 or not is_float32 or not is_taken or not is_writable:
        options = {"start": start, "scale": scale, "window": window, "eps": eps, "wide": wide}
        return portable(x, norm, *weights, *biases, cos, sin, cache, first, **options)

    assert 0 <= start < keys.shape[2], "a cache is as large as its capacity; grow it"
    y = np.empty(x.shape, x.dtype)
    compute(
        bits(x),
        bits(norm),
        *map(bits, weights),
        *map(bias_bits, biases, weights),
        bits(cos),
        bits(sin),
        bits(keys),
        bits(values),
        first_slots(first),
        start,
        np.float32(scale),
        window or 0,
        np.float32(eps),
        bits(y),
    )
    return y


@parallel()
def compute(
    x, norm, q_weight, k_weight, v_weight, o_weight, q_bias, k_bias, v_bias, o_bias, cos, sin, keys, values, first,
    start, scale, window, eps, y,
):  # fmt: skip
    B, _, C = x.shape
    D = 2 * cos.shape[3]
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

    q = empty((B, len(q_weight) // D, 1, D))
    for b in range(B):
        for h in range(q.shape[1]):
            _rotate(q_sums, q_bias, b, h, cos, sin, x, q[b, h, 0])
        for h in range(keys.shape[1]):
            _rotate(k_sums, k_bias, b, h, cos, sin, x, k_sums[b, h * D : (h + 1) * D])
            for d in range(D):
                keys[b, h, start, d] = narrow(k_sums[b, h * D + d], keys)
                values[b, h, start, d] = narrow(finish(v_sums, v_bias, b, h * D + d, x), values)

    # as `attend`, which is a kernel of its own
    low, length, blocks = cut(start, 1, window)
    parts = make_parts(q, keys, blocks)
    for unit in prange(B * keys.shape[1] * blocks):
        attend_block(
            np.int64(unit), q, keys, values, first, start, scale, window, low, length, parts
        )
    joined = join(parts, q)[0].reshape(B, len(q_weight))
    for b in range(B):
        for i in range(len(q_weight)):
            joined[b, i] = widen(narrow(joined[b, i], x))

    sums = empty((B, C))
    for unsigned in prange(count_blocks(o_weight)):
        block = np.int64(unsigned)
        multiply(joined, o_weight, block, sums)
        add_residual(sums, o_bias, block, x, y)


@serial()
def _rotate(sums, bias, b, head, cos, sin, like, y):
    """y (D,): a head of a projection, turned, and rounded as the array `like` stores it. y may be a part of sums.

    sums (B, heads D); cos, sin (B or 1, 1, 1, D/2).
    """
    half = cos.shape[3]
    row = b if len(cos) > 1 else 0
    for i in range(half):
        y1 = finish(sums, bias, b, 2 * half * head + i, like)
        y2 = finish(sums, bias, b, 2 * half * head + half + i, like)
        y[i] = widen(narrow(y1 * cos[row, 0, 0, i] - y2 * sin[row, 0, 0, i], like))
        y[half + i] = widen(narrow(y2 * cos[row, 0, 0, i] + y1 * sin[row, 0, 0, i], like))
