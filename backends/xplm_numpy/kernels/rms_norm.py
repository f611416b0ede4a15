"""RMS normalisation, fused. Derivation and signatures: `xplm.kernels.rms_norm`.

A row is read from memory once and is still in cache for its second pass.
Bytes in float32: forward 8 C a row (x in, y out), backward 12 C a row (dy and x in, dx out). FLOPs: 4 C and 10 C.
dweight is summed over fixed blocks of rows, then over the blocks in order.
`forward` and `backward` are `add_rms_norm`'s too, so that one kernel each is compiled for both.
"""

import numpy as np
from numba import prange

from xplm.kernels import rms_norm as portable
from xplm.kernels.rms_norm import RMSNormSaved
from xplm_numpy.dot import dot
from xplm_numpy.jit import exact, parallel, serial
from xplm_numpy.narrow import bits, in_float32, narrow, takes, widen

ROWS_PER_BLOCK = 64


def rms_norm_fwd(x, weight, *, eps, island=None):
    if not takes(x, weight) or not fits(weight, x) or not in_float32(island):
        return portable.rms_norm_fwd(x, weight, eps=eps, island=island)

    C = x.shape[-1]
    y = np.empty(x.shape, x.dtype)
    rstd = np.empty((*x.shape[:-1], 1), np.float32)
    scale = bits(weight.astype(x.dtype, copy=False))
    rows, out = (bits(array).reshape(-1, C) for array in (x, y))
    forward(rows, rows[:0], scale, np.float32(eps), rows, out, rstd.reshape(-1))
    return y, RMSNormSaved(x, weight, rstd)


def rms_norm_bwd(dy, saved):
    x, weight, rstd = saved
    if not takes(dy, x, weight) or not fits(weight, x) or rstd.dtype != np.float32:
        return portable.rms_norm_bwd(dy, saved)
    return go_back(dy[:0], dy, saved)


def go_back(dy, dn, saved):
    """dx and dweight, as `backward` has them."""
    y, weight, rstd = saved
    C = y.shape[-1]
    dx = np.empty(y.shape, y.dtype)
    partial = np.zeros((-(-rstd.size // ROWS_PER_BLOCK), C), np.float32)
    *rows, dx_rows = (bits(array).reshape(-1, C) for array in (dy, dn, y, dx))
    backward(*rows, bits(weight), rstd.reshape(-1), dx_rows, partial)
    return dx, partial.sum(axis=0)


def fits(weight, x):
    """Whether there is one weight for each number of a row."""
    return weight.shape == x.shape[-1:]


@parallel()
def forward(x, branch, weight, eps, y, n, rstd):
    """y = x + branch, n = rms_norm(y); where branch has no rows, y is x."""
    R = len(x)
    if R <= ROWS_PER_BLOCK:
        _forward_rows(x, branch, weight, eps, y, n, rstd, 0, R)
    else:
        for b in prange(-(-R // ROWS_PER_BLOCK)):
            begin = np.int64(b) * ROWS_PER_BLOCK
            end = min(R, begin + ROWS_PER_BLOCK)
            _forward_rows(x, branch, weight, eps, y, n, rstd, begin, end)


@parallel()
def backward(dy, dn, y, weight, rstd, dx, partial):
    """dx = dy + rms_norm_bwd(dn), and dweight by blocks; where dy has no rows, nothing is added."""
    R = len(y)
    if R <= ROWS_PER_BLOCK:
        _backward_rows(dy, dn, y, weight, rstd, dx, partial, 0, R)
    else:
        for b in prange(len(partial)):
            begin = np.int64(b) * ROWS_PER_BLOCK
            end = min(R, begin + ROWS_PER_BLOCK)
            _backward_rows(dy, dn, y, weight, rstd, dx, partial, begin, end)


@serial()
def _forward_rows(x, branch, weight, eps, y, n, rstd, begin, end):
    if len(branch) > 0:
        _add_rows(x, branch, y, begin, end)
    _normalise_rows(y, weight, eps, n, rstd, begin, end)


@serial()
def _backward_rows(dy, dn, y, weight, rstd, dx, partial, begin, end):
    _normalise_rows_back(dn, y, weight, rstd, dx, partial, begin, end)
    if len(dy) > 0:
        _add_rows(dy, dx, dx, begin, end)


@exact()
def _add_rows(a, b, out, begin, end):
    for r in range(begin, end):
        for c in range(a.shape[1]):
            out[r, c] = narrow(widen(a[r, c]) + widen(b[r, c]), out)


@exact()
def _normalise_rows(x, weight, eps, y, rstd, begin, end):
    C = x.shape[1]
    for r in range(begin, end):
        s = inverse_root(dot(x, r * C, x, r * C, C) / np.float32(C) + eps)

        rstd[r] = s
        for c in range(C):
            n = widen(narrow(widen(x[r, c]) * s, y))
            y[r, c] = narrow(n * widen(weight[c]), y)


@serial()
def _normalise_rows_back(dy, x, weight, rstd, dx, partial, begin, end):
    C = x.shape[1]
    b = begin // ROWS_PER_BLOCK
    for r in range(begin, end):
        s = rstd[r]
        dot = np.float32(0.0)  # sum of dn * n over the row
        for c in range(C):
            dot += widen(dy[r, c]) * widen(weight[c]) * widen(x[r, c])
        mean = dot * s / np.float32(C)

        for c in range(C):
            d, n = widen(dy[r, c]), widen(x[r, c]) * s
            partial[b, c] += d * n
            dx[r, c] = narrow(s * (d * widen(weight[c]) - n * mean), dx)


@exact()
def inverse_root(x):
    """1 / sqrt(x), not from an estimate, which makes NaN of infinity."""
    return np.float32(1.0) / np.sqrt(x)
