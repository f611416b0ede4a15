"""Dropout, fused. Derivation and signatures: `xplm.kernels.dropout`.

One pass over memory. Bytes of a number in float32: 9 (x and its mask in, y out). FLOPs: 1.
"""

import numpy as np
from numba import prange

from xplm.kernels import dropout as portable
from xplm.kernels.dropout import DropoutSaved
from xplm_numpy.blocks import BLOCK, block_of
from xplm_numpy.jit import parallel, serial
from xplm_numpy.narrow import bits, contiguous, narrow, takes, widen


def dropout_fwd(x, keep, *, rate):
    if not takes(x):
        return portable.dropout_fwd(x, keep, rate=rate)
    return _scaled(x, keep, rate), DropoutSaved(keep, rate)


def dropout_bwd(dy, saved):
    if not takes(dy):
        return portable.dropout_bwd(dy, saved)
    return _scaled(dy, saved.keep, saved.rate), None


def _scaled(x, keep, rate):
    y = np.empty(x.shape, x.dtype)
    mask = contiguous(keep).reshape(-1)
    _scale(bits(x).reshape(-1), mask, np.float32(1.0 / (1.0 - rate)), bits(y).reshape(-1))
    return y


@parallel()
def _scale(x, keep, scale, y):
    n = len(x)
    if n <= BLOCK:
        _scale_block(x, keep, scale, y)
    else:
        for b in prange(-(-n // BLOCK)):
            begin, end = block_of(b, BLOCK, n)
            _scale_block(x[begin:end], keep[begin:end], scale, y[begin:end])


@serial()
def _scale_block(x, keep, scale, y):
    for i in range(len(x)):
        y[i] = narrow(widen(x[i]) * scale if keep[i] else np.float32(0.0), y)
