"""Cross-entropy, fused. Derivation and signatures: `xplm.kernels.cross_entropy`.

A row of logits is read from memory once and is still in cache for its second pass; no one-hot row is made.
Bytes in float32: forward 4 V a row, backward 8 V (x in, dx out). FLOPs: an exponential a number, and 3 each way.
"""

import numpy as np
from numba import prange

from xplm.kernels import cross_entropy as portable
from xplm.kernels.cross_entropy import CrossEntropySaved
from xplm_numpy.arrays import empty
from xplm_numpy.exp import exp
from xplm_numpy.jit import parallel, serial
from xplm_numpy.narrow import bits, contiguous, in_float32, narrow, takes, widen

ROWS_PER_BLOCK = 16
LANES = 16

PART = 512
"""Numbers of a row that go back together: 2 KiB, which stay in the nearest cache."""


def cross_entropy_fwd(x, targets, *, ignore_index, label_smoothing=0.0, z_loss=0.0, island=None):
    options = {"ignore_index": ignore_index, "label_smoothing": label_smoothing, "z_loss": z_loss}
    if not takes(x) or not in_float32(island):
        return portable.cross_entropy_fwd(x, targets, **options, island=island)
    loss, lse = (np.empty(len(x), np.float32) for _ in range(2))
    shares = np.float32(label_smoothing), np.float32(z_loss)
    forward_rows(bits(x), contiguous(targets, np.int64), ignore_index, *shares, loss, lse)
    return loss, CrossEntropySaved(x, targets, lse, **options)


def cross_entropy_bwd(dloss, saved):
    x, targets, lse, ignore_index, label_smoothing, z_loss = saved
    if not takes(x) or not dloss.dtype == lse.dtype == np.float32:
        return portable.cross_entropy_bwd(dloss, saved)
    dx = np.empty(x.shape, x.dtype)
    ids = contiguous(targets, np.int64)
    shares = np.float32(label_smoothing), np.float32(z_loss)
    backward_rows(bits(dloss), bits(x), ids, lse, ignore_index, *shares, bits(dx))
    return dx, None


@parallel()
def forward_rows(x, targets, ignore_index, smoothing, z_loss, loss, lse):
    """Loss and lse of each row, into two arrays."""
    N = len(x)
    for b in prange(-(-N // ROWS_PER_BLOCK)):
        begin = np.int64(b) * ROWS_PER_BLOCK
        end = min(N, begin + ROWS_PER_BLOCK)
        _forward_block(x, targets, ignore_index, smoothing, z_loss, loss, lse, begin, end)


@parallel()
def backward_rows(dloss, x, targets, lse, ignore_index, smoothing, z_loss, dx):
    """dx of each row, which may overwrite x."""
    N = len(x)
    for b in prange(-(-N // ROWS_PER_BLOCK)):
        begin = np.int64(b) * ROWS_PER_BLOCK
        end = min(N, begin + ROWS_PER_BLOCK)
        _backward_block(dloss, x, targets, lse, ignore_index, smoothing, z_loss, dx, begin, end)


@serial()
def _forward_block(x, targets, ignore_index, smoothing, z_loss, loss, lse, begin, end):
    V = x.shape[1]
    for n in range(begin, end):
        m = _highest(x, n)
        total, mean = np.float32(0.0), np.float32(0.0)
        for j in range(V):
            total += exp(widen(x[n, j]) - m)
            mean += widen(x[n, j])
        mean /= np.float32(V)

        lse[n] = m + np.log(total)
        loss[n] = np.float32(0.0)
        if targets[n] != ignore_index:
            target_logit = widen(x[n, targets[n]])
            loss[n] = (
                lse[n] - (np.float32(1.0) - smoothing) * target_logit + z_loss * lse[n] * lse[n]
            )
            if smoothing > 0.0:  # a mean over an infinite logit is none
                loss[n] -= smoothing * mean


@serial()
def _backward_block(dloss, x, targets, lse, ignore_index, smoothing, z_loss, dx, begin, end):
    V = x.shape[1]
    # Vectors are read and written apart, for x and dx may be one array.
    part = empty((PART,))
    for n in range(begin, end):
        if targets[n] == ignore_index:
            for j in range(V):
                dx[n, j] = narrow(np.float32(0.0), dx)
            continue

        d, shift = dloss[n], lse[n]
        p_scale = d * (np.float32(1.0) + np.float32(2.0) * z_loss * shift)
        everywhere = d * smoothing / np.float32(V)
        target = targets[n]
        at_target = exp(widen(x[n, target]) - shift) * p_scale - everywhere
        for first in range(0, V, PART):
            count = min(PART, V - first)
            for j in range(count):
                part[j] = exp(widen(x[n, first + j]) - shift) * p_scale - everywhere
            for j in range(count):
                dx[n, first + j] = narrow(part[j], dx)
        dx[n, target] = narrow(at_target - d * (np.float32(1.0) - smoothing), dx)


@serial()
def _highest(x, n):
    """The maximum of row n, by lanes, which are a vector's."""
    V = x.shape[1]
    lanes = empty((LANES,))
    for lane in range(LANES):
        lanes[lane] = np.float32(-np.inf)
    for j in range(0, V - LANES + 1, LANES):
        for lane in range(LANES):
            v = widen(x[n, j + lane])
            lanes[lane] = v if v > lanes[lane] else lanes[lane]
    m = np.float32(-np.inf)
    for lane in range(LANES):
        m = max(m, lanes[lane])
    for j in range(V - V % LANES, V):
        v = widen(x[n, j])
        m = v if v > m else m
    return m
