"""Attention over a cache of latents. What it computes: `xplm.kernels.fusions.absorbed_attention`.

Both products are one thread's for each head, whose rows of the weight are read once, as they are stored, for all
queries. Bytes: H (N + Dv) R numbers of the weight, and those of `cached_attention`. FLOPs: 2 B T H (N + Dv) R.
"""

import numpy as np
from numba import prange

from xplm.kernels.fusions.absorbed_attention import absorbed_attention as portable
from xplm.views import KeyView
from xplm_numpy.arrays import empty
from xplm_numpy.gemv import count_blocks, multiply
from xplm_numpy.jit import parallel
from xplm_numpy.kernels.cached_attention import cached_attention
from xplm_numpy.key_block import weigh
from xplm_numpy.narrow import bits, in_float32, narrow, takes, widen


def absorbed_attention(q, view, weight, *, scale, island=None):
    if not takes(q, view.latents, weight) or not in_float32(island):
        return portable(q, view, weight, scale=scale, island=island)
    return absorb(cached_attention, q, view, weight, scale=scale, island=island)


def absorb(attend, q, view, weight, **options):
    """`absorbed_attention` by a `cached_attention`, of arrays that kernels take."""
    latents, rows = view
    B, H, T, D = q.shape
    R, width = weight.shape[1], latents.shape[3]
    heads = bits(weight).reshape(H, -1, R)
    N = D - (width - R)
    absorbed = np.empty((B, H, T, width), q.dtype)
    _absorb(bits(q), heads, N, bits(absorbed))
    shared = KeyView(latents, latents, rows)
    sums = attend(absorbed, shared, **options)
    y = np.empty((B, H, T, heads.shape[1] - N), q.dtype)
    _project(bits(sums), heads, N, bits(y))
    return y


@parallel()
def _absorb(q, weight, N, out):
    """out = q1 A, q2.   q (B, H, T, N + P), weight (H, N + Dv, R) and out (B, H, T, R + P) as stored"""
    B, H, T, D = q.shape
    R = weight.shape[2]
    for unit in prange(H):
        h = np.int64(unit)
        rows, sums = empty((B * T, N)), empty((B * T, R))
        for row in range(B * T):
            for n in range(N):
                rows[row, n] = widen(q[row // T, h, row % T, n])
        weigh(rows, weight[h, :N], sums)
        for row in range(B * T):
            b, t = row // T, row % T
            for r in range(R):
                out[b, h, t, r] = narrow(sums[row, r], out)
            for p in range(D - N):
                out[b, h, t, R + p] = q[b, h, t, N + p]


@parallel()
def _project(x, weight, N, y):
    """y = x B^T.   x (B, H, T, R + P), weight (H, N + Dv, R) and y (B, H, T, Dv) as stored"""
    B, H, T, Dv = y.shape
    R = weight.shape[2]
    for unit in prange(H):
        h = np.int64(unit)
        rows, sums = empty((B * T, R)), empty((B * T, Dv))
        for row in range(B * T):
            for r in range(R):
                rows[row, r] = widen(x[row // T, h, row % T, r])
        values = weight[h, N:]
        for four in range(count_blocks(values)):
            multiply(rows, values, four, sums)
        for row in range(B * T):
            for v in range(Dv):
                y[row // T, h, row % T, v] = narrow(sums[row, v], y)
