"""Rotary position embedding, fused. Derivation and signatures: `xplm.kernels.rope`.

One pass over memory. Bytes of a number in float32: 8 (x in, y out) and, once for all heads, 4 of the tables. FLOPs: 3.
The result lies as heads do before they are cut apart, (B, T, H, D), where cutting and joining them costs no copy.
"""

import numpy as np
from numba import prange

from xplm.kernels import rope as portable
from xplm.kernels.rope import HALVES, NEIGHBOURS, RopeSaved
from xplm_numpy.blocks import BLOCK
from xplm_numpy.dot import multiply_add
from xplm_numpy.jit import exact, parallel
from xplm_numpy.narrow import bits, narrow, takes, widen


def rope_fwd(x, cos, sin, *, pairs=HALVES):
    if not takes(x) or not cos.dtype == sin.dtype == np.float32:
        return portable.rope_fwd(x, cos, sin, pairs=pairs)
    return _turned(x, cos, sin, 1.0, pairs), RopeSaved(cos, sin, pairs)


def rope_bwd(dy, saved):
    cos, sin, pairs = saved
    if not takes(dy) or not cos.dtype == sin.dtype == np.float32:
        return portable.rope_bwd(dy, saved)
    return _turned(dy, cos, sin, -1.0, pairs), None, None


def _turned(x, cos, sin, sign, pairs):
    rows = x.transpose(0, 2, 1, 3)
    y = np.empty(rows.shape, x.dtype)
    tables = bits(cos[:, 0]), bits(sin[:, 0])
    _turn(bits(rows), *tables, np.float32(sign), pairs == NEIGHBOURS, bits(y))
    return y.transpose(0, 2, 1, 3)


@parallel()
def _turn(x, cos, sin, sign, are_neighbours, y):
    B, T, H, D = x.shape
    n = max(1, BLOCK // (H * D))
    if n >= B * T:
        _turn_rows(x, cos, sin, sign, are_neighbours, y, 0, B * T)
    else:
        for block in prange(-(-B * T // n)):
            begin = np.int64(block) * n
            _turn_rows(x, cos, sin, sign, are_neighbours, y, begin, min(B * T, begin + n))


@exact()
def _turn_rows(x, cos, sin, sign, are_neighbours, y, begin, end):
    _, T, H, D = x.shape
    half = cos.shape[2]
    for row in range(begin, end):
        b, t = row // T, row % T
        own = b if len(cos) > 1 else 0
        for h in range(H):
            if are_neighbours:
                for i in range(half):
                    c, s = cos[own, t, i], sin[own, t, i] * sign
                    x1, x2 = widen(x[b, t, h, 2 * i]), widen(x[b, t, h, 2 * i + 1])
                    y[b, t, h, 2 * i] = narrow(multiply_add(x1, c, -x2 * s), y)
                    y[b, t, h, 2 * i + 1] = narrow(multiply_add(x2, c, x1 * s), y)
            else:
                for i in range(half):
                    c, s = cos[own, t, i], sin[own, t, i] * sign
                    x1, x2 = widen(x[b, t, h, i]), widen(x[b, t, h, half + i])
                    y[b, t, h, i] = narrow(multiply_add(x1, c, -x2 * s), y)
                    y[b, t, h, half + i] = narrow(multiply_add(x2, c, x1 * s), y)
            for i in range(2 * half, D):
                y[b, t, h, i] = x[b, t, h, i]
