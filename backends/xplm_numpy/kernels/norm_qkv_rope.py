"""Norm, projections and rotation in one call. What it computes: `xplm.kernels.fusions.norm_qkv_rope`.

Bytes: those of the three weights, C (H + 2 K) D numbers; FLOPs: 2 B of each. The norm and the rotation are of a few
hundred numbers, which one thread has done before a second has woken up.
"""

import numpy as np
from numba import prange

from xplm.kernels.fusions.norm_qkv_rope import norm_qkv_rope as portable
from xplm_numpy.gemv import count_blocks, finish, multiply, with_bias
from xplm_numpy.jit import parallel, serial
from xplm_numpy.narrow import FLOAT32, alike, bias_bits, bits, narrow, takes, widen


def norm_qkv_rope(
    x, norm, q_weight, k_weight, v_weight, q_bias, k_bias, v_bias, cos, sin, *, eps, wide=None
):
    B, T, _ = x.shape
    weights, biases = (q_weight, k_weight, v_weight), (q_bias, k_bias, v_bias)
    is_float32 = cos.dtype == FLOAT32 and (wide is None or wide == FLOAT32)
    is_taken = takes(x, norm, *weights, *biases) and alike(weights)
    if T != 1 or not is_float32 or not is_taken:
        return portable(x, norm, *weights, *biases, cos, sin, eps=eps, wide=wide)

    half = cos.shape[-1]
    q, k, v = (np.empty((B, len(w) // (2 * half), 1, 2 * half), x.dtype) for w in weights)
    _project(
        bits(x),
        bits(norm),
        *map(bits, weights),
        *map(bias_bits, biases, weights),
        bits(cos),
        bits(sin),
        np.float32(eps),
        bits(q),
        bits(k),
        bits(v),
    )
    return q, k, v


@serial()
def normalise(x, weight, eps):
    """float32 rows x / rms(x) * weight of x (B, C), rounded where the portable kernel rounds."""
    B, C = x.shape
    y = np.empty((B, C), np.float32)
    for b in range(B):
        total = np.float32(0.0)
        for c in range(C):
            total += widen(x[b, c]) * widen(x[b, c])
        rstd = np.float32(1.0) / np.sqrt(total / np.float32(C) + eps)

        for c in range(C):
            n = widen(narrow(widen(x[b, c]) * rstd, x))
            y[b, c] = widen(narrow(n * widen(narrow(widen(weight[c]), x)), x))
    return y


@parallel()
def _project(x, norm, q_weight, k_weight, v_weight, q_bias, k_bias, v_bias, cos, sin, eps, q, k, v):
    B, _, C = x.shape
    n = normalise(x.reshape(B, C), norm, eps)
    q_sums = np.empty((B, len(q_weight)), np.float32)
    k_sums = np.empty((B, len(k_weight)), np.float32)
    v_sums = np.empty((B, len(v_weight)), np.float32)

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
        multiply(n, weight, block - begin, sums)

    _rotate(q_sums, q_bias, cos, sin, q.reshape(q_sums.shape))
    _rotate(k_sums, k_bias, cos, sin, k.reshape(k_sums.shape))
    values = v.reshape(v_sums.shape)
    for b in range(B):
        for i in range(values.shape[1]):
            values[b, i] = narrow(with_bias(v_sums, v_bias, b, i), v)


@serial()
def _rotate(sums, bias, cos, sin, y):
    """y (B, heads D) from the products of a projection; cos, sin (B or 1, 1, 1, D/2)."""
    half = cos.shape[3]
    for b in range(len(y)):
        row = b if len(cos) > 1 else 0
        for begin in range(0, y.shape[1], 2 * half):
            for i in range(half):
                y1 = finish(sums, bias, b, begin + i, y)
                y2 = finish(sums, bias, b, begin + half + i, y)
                y[b, begin + i] = narrow(y1 * cos[row, 0, 0, i] - y2 * sin[row, 0, 0, i], y)
                y[b, begin + half + i] = narrow(y2 * cos[row, 0, 0, i] + y1 * sin[row, 0, 0, i], y)
