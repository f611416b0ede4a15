"""Softmax, fused. Derivation and signatures: `xplm.kernels.softmax`.

A row is read from memory once and is still in cache for its second pass. With a mask a row of it, too.
Bytes in float32: forward 8 S a row (x in, y out), backward 12 S (y and dy in, dx out). FLOPs: an exponential a number
and 3 more; 4 backward.
"""

import numpy as np
from numba import prange

from xplm.kernels import softmax as portable
from xplm.kernels.softmax import SoftmaxSaved
from xplm_numpy.exp import exp
from xplm_numpy.jit import parallel, serial
from xplm_numpy.narrow import bits, in_float32, narrow, takes, widen

ROWS_PER_BLOCK = 16
ALL_VISIBLE = np.empty((0, 0), np.uint8)


def softmax_fwd(x, visible=None, *, island=None):
    if not takes(x) or not in_float32(island):
        return portable.softmax_fwd(x, visible, island=island)

    S = x.shape[-1]
    y = np.empty(x.shape, np.float32)
    lse = np.empty((*x.shape[:-1], 1), np.float32)
    mask = ALL_VISIBLE
    if visible is not None:
        mask = np.array(np.broadcast_to(visible, x.shape), np.uint8).reshape(lse.size, S)
    _forward(bits(x).reshape(lse.size, S), mask, y.reshape(lse.size, S), lse.reshape(-1))
    return y.astype(x.dtype, copy=False), SoftmaxSaved(y, lse)


def softmax_bwd(dy, saved):
    y = saved.y
    if not takes(dy) or y.dtype != np.float32:
        return portable.softmax_bwd(dy, saved)

    S = y.shape[-1]
    dx = np.empty(dy.shape, dy.dtype)
    _backward(*(bits(a).reshape(saved.lse.size, S) for a in (dy, y, dx)))
    return dx, None


@parallel()
def _forward(x, visible, y, lse):
    R = len(x)
    for b in prange(-(-R // ROWS_PER_BLOCK)):
        begin = np.int64(b) * ROWS_PER_BLOCK
        _forward_rows(x, visible, y, lse, begin, min(R, begin + ROWS_PER_BLOCK))


@parallel()
def _backward(dy, y, dx):
    R = len(y)
    for b in prange(-(-R // ROWS_PER_BLOCK)):
        begin = np.int64(b) * ROWS_PER_BLOCK
        _backward_rows(dy, y, dx, begin, min(R, begin + ROWS_PER_BLOCK))


@serial()
def _forward_rows(x, visible, y, lse, begin, end):
    S = x.shape[1]
    for r in range(begin, end):
        some = True
        for j in range(S):
            y[r, j] = widen(x[r, j])
        if len(visible):
            some = visible[r].any()
            for j in range(S):
                y[r, j] = y[r, j] if visible[r, j] else np.float32(-np.inf)

        highest = np.float32(-np.inf)
        for j in range(S):
            highest = y[r, j] if y[r, j] > highest else highest
        shift = highest if some else np.float32(0.0)
        total = np.float32(0.0)
        for j in range(S):
            y[r, j] = exp(y[r, j] - shift)
            total += y[r, j]

        lse[r] = shift + np.log(total)
        share = np.float32(1.0) / total if some else np.float32(0.0)
        for j in range(S):
            y[r, j] *= share


@serial()
def _backward_rows(dy, y, dx, begin, end):
    S = y.shape[1]
    for r in range(begin, end):
        dot = np.float32(0.0)
        for j in range(S):
            dot += widen(dy[r, j]) * y[r, j]
        for j in range(S):
            dx[r, j] = narrow(y[r, j] * (widen(dy[r, j]) - dot), dx)
