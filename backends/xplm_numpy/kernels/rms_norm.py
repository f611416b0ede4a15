"""RMS normalisation, fused. Derivation and signatures: `xplm.kernels.rms_norm`.

A row is read from memory once and is still in cache for its second pass.
Bytes in float32: forward 8 C a row (x in, y out), backward 12 C a row (dy and x in, dx out).
dweight is summed over fixed blocks of rows, then over the blocks in order.
"""

import numpy as np
from numba import prange

from xplm.kernels import rms_norm as portable
from xplm.kernels.rms_norm import RMSNormSaved
from xplm_numpy.jit import parallel

ROWS_PER_BLOCK = 64


def rms_norm_fwd(x, weight, *, eps, wide=None):
    if not _all_float32(x, weight) or wide not in (None, np.float32):
        return portable.rms_norm_fwd(x, weight, eps=eps, wide=wide)

    rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
    y = np.empty_like(rows)
    rstd = np.empty(len(rows), np.float32)
    _forward(rows, weight, np.float32(eps), y, rstd)
    return y.reshape(x.shape), RMSNormSaved(x, weight, rstd.reshape(*x.shape[:-1], 1))


def rms_norm_bwd(dy, saved):
    x, weight, rstd = saved
    if not _all_float32(dy, x, weight, rstd):
        return portable.rms_norm_bwd(dy, saved)

    rows = np.ascontiguousarray(x).reshape(-1, x.shape[-1])
    dy_rows = np.ascontiguousarray(dy).reshape(rows.shape)
    dx = np.empty_like(rows)
    partial = np.zeros((-(-len(rows) // ROWS_PER_BLOCK), rows.shape[1]), np.float32)
    _backward(dy_rows, rows, weight, rstd.reshape(-1), dx, partial)
    return dx.reshape(x.shape), partial.sum(axis=0)


def _all_float32(*arrays):
    return all(array.dtype == np.float32 for array in arrays)


@parallel()
def _forward(x, weight, eps, y, rstd):
    R, C = x.shape
    for r in prange(R):
        total = np.float32(0.0)
        for c in range(C):
            total += x[r, c] * x[r, c]
        s = np.float32(1.0) / np.sqrt(total / np.float32(C) + eps)

        rstd[r] = s
        for c in range(C):
            y[r, c] = x[r, c] * s * weight[c]


@parallel()
def _backward(dy, x, weight, rstd, dx, partial):
    R, C = x.shape
    for b in prange(len(partial)):
        for r in range(b * ROWS_PER_BLOCK, min(R, (b + 1) * ROWS_PER_BLOCK)):
            s = rstd[r]
            dot = np.float32(0.0)  # sum of dn * n over the row
            for c in range(C):
                dot += dy[r, c] * weight[c] * x[r, c] * s
            mean = dot / np.float32(C)

            for c in range(C):
                n = x[r, c] * s
                partial[b, c] += dy[r, c] * n
                dx[r, c] = s * (dy[r, c] * weight[c] - n * mean)
