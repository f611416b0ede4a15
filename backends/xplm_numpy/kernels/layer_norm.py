"""Layer normalisation, fused. Derivation and signatures: `xplm.kernels.layer_norm`.

A row is read from memory once and is still in cache for its later passes.
Bytes in float32: forward 8 C a row (x in, y out), backward 12 C a row (dy and x in, dx out). FLOPs: 8 C and 14 C.
dweight and dbias are summed over fixed blocks of rows, then over the blocks in order.
"""

import numpy as np
from numba import prange

from xplm.kernels import layer_norm as portable
from xplm.kernels.layer_norm import LayerNormSaved
from xplm_numpy.arrays import empty
from xplm_numpy.dot import dot, multiply_add
from xplm_numpy.jit import exact, parallel, serial
from xplm_numpy.kernels.rms_norm import fits, inverse_root
from xplm_numpy.narrow import bits, in_float32, narrow, takes, widen

ROWS_PER_BLOCK = 64


def layer_norm_fwd(x, weight, bias, *, eps, island=None):
    is_whole = fits(weight, x) and fits(bias, x)
    if not (is_whole and takes(x, weight, bias) and in_float32(island)):
        return portable.layer_norm_fwd(x, weight, bias, eps=eps, island=island)

    C = x.shape[-1]
    y = np.empty(x.shape, x.dtype)
    mean = np.empty((*x.shape[:-1], 1), np.float32)
    rstd = np.empty_like(mean)
    rows, y_rows = bits(x).reshape(-1, C), bits(y).reshape(-1, C)
    _forward(rows, bits(weight), bits(bias), np.float32(eps), y_rows, mean.reshape(-1), rstd.reshape(-1))  # fmt: skip
    return y, LayerNormSaved(x, weight, bias, mean, rstd)


def layer_norm_bwd(dy, saved):
    x, weight, _, mean, rstd = saved
    is_taken = takes(dy, x, weight) and fits(weight, x)
    if not is_taken or not mean.dtype == rstd.dtype == np.float32:
        return portable.layer_norm_bwd(dy, saved)

    C = x.shape[-1]
    dx = np.empty(x.shape, x.dtype)
    partial = np.zeros((-(-rstd.size // ROWS_PER_BLOCK), 2, C), np.float32)
    dy_rows, x_rows, dx_rows = (bits(a).reshape(-1, C) for a in (dy, x, dx))
    _backward(dy_rows, x_rows, bits(weight), mean.reshape(-1), rstd.reshape(-1), dx_rows, partial)
    dweight, dbias = partial.sum(axis=0)
    return dx, dweight, dbias


@parallel()
def _forward(x, weight, bias, eps, y, mean, rstd):
    R = len(x)
    if R <= ROWS_PER_BLOCK:
        _forward_rows(x, weight, bias, eps, y, mean, rstd, 0, R)
    else:
        for b in prange(-(-R // ROWS_PER_BLOCK)):
            begin = np.int64(b) * ROWS_PER_BLOCK
            end = min(R, begin + ROWS_PER_BLOCK)
            _forward_rows(x, weight, bias, eps, y, mean, rstd, begin, end)


@parallel()
def _backward(dy, x, weight, mean, rstd, dx, partial):
    R = len(x)
    if R <= ROWS_PER_BLOCK:
        _backward_rows(dy, x, weight, mean, rstd, dx, partial, 0, R)
    else:
        for b in prange(len(partial)):
            begin = np.int64(b) * ROWS_PER_BLOCK
            end = min(R, begin + ROWS_PER_BLOCK)
            _backward_rows(dy, x, weight, mean, rstd, dx, partial, begin, end)


@exact()
def _forward_rows(x, weight, bias, eps, y, mean, rstd, begin, end):
    C = x.shape[1]
    centred = empty((C,))
    for r in range(begin, end):
        for c in range(C):
            centred[c] = widen(x[r, c])
        m = centre(centred)
        s = inverse_root(dot(centred, 0, centred, 0, C) / np.float32(C) + eps)

        mean[r] = m
        rstd[r] = s
        for c in range(C):
            y[r, c] = narrow(multiply_add(centred[c] * s, widen(weight[c]), widen(bias[c])), y)


@exact()
def centre(row):
    """A row (C,) less its mean, in place; returns the mean."""
    C = len(row)
    ones = empty((C,))
    for c in range(C):
        ones[c] = np.float32(1.0)
    mean = dot(row, 0, ones, 0, C) / np.float32(C)
    for c in range(C):
        row[c] -= mean
    return mean


@serial()
def _backward_rows(dy, x, weight, mean, rstd, dx, partial, begin, end):
    C = x.shape[1]
    b = begin // ROWS_PER_BLOCK
    for r in range(begin, end):
        m, s = mean[r], rstd[r]
        total = np.float32(0.0)  # sum of dn over the row
        dot = np.float32(0.0)  # sum of dn * n
        for c in range(C):
            dn = widen(dy[r, c]) * widen(weight[c])
            total += dn
            dot += dn * ((widen(x[r, c]) - m) * s)
        dn_mean, dot_mean = total / np.float32(C), dot / np.float32(C)

        for c in range(C):
            d, n = widen(dy[r, c]), (widen(x[r, c]) - m) * s
            partial[b, 0, c] += d * n
            partial[b, 1, c] += d
            dx[r, c] = narrow(s * (d * widen(weight[c]) - dn_mean - n * dot_mean), dx)
