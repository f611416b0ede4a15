"""Attention over the cache, then projection and residual in one call: `xplm.kernels.fusions.attention_residual`.

Bytes: the cache's (`xplm_numpy.attention_decode`) and C H D weights; FLOPs: 2 B of each weight, beside attention's.
"""

import numpy as np
from numba import prange

from xplm.kernels.fusions.attention_residual import attention_residual as portable
from xplm_numpy.attention_decode import NO_PADDING, attend, cache_bits
from xplm_numpy.gemv import count_blocks, multiply
from xplm_numpy.jit import parallel
from xplm_numpy.kernels.norm_mlp_residual import add_residual
from xplm_numpy.narrow import FLOAT32, bias_bits, bits, narrow, takes, widen


def attention_residual(
    x, q, k, v, o_weight, o_bias, first, *, start, scale, window=None, wide=None
):
    is_float32 = wide is None or wide == FLOAT32
    if x.shape[1] != 1 or not is_float32 or not takes(x, q, k, v, o_weight, o_bias):
        options = {"start": start, "scale": scale, "window": window, "wide": wide}
        return portable(x, q, k, v, o_weight, o_bias, first, **options)

    hidden = NO_PADDING if first is None else first
    heads, _ = attend(
        bits(q), cache_bits(k), cache_bits(v), hidden, start, np.float32(scale), window or 0
    )
    y = np.empty(x.shape, x.dtype)
    _project(bits(x), heads, bits(q), bits(o_weight), bias_bits(o_bias, o_weight), bits(y))
    return y


@parallel()
def _project(x, heads, q, o_weight, o_bias, y):
    """y = x + rows @ o_weight^T, of heads (B, H, 1, D) rounded as q is stored."""
    B, H, _, D = heads.shape
    rows = np.empty((B, H * D), np.float32)
    for b in range(B):
        for h in range(H):
            for d in range(D):
                rows[b, h * D + d] = widen(narrow(heads[b, h, 0, d], q))

    sums = np.empty((B, len(o_weight)), np.float32)
    for unsigned in prange(count_blocks(o_weight)):
        block = np.int64(unsigned)
        multiply(rows, o_weight, block, sums)
        add_residual(sums, o_bias, block, x, y)
