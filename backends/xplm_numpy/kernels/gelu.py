"""GELU, fused. Derivation and signatures: `xplm.kernels.gelu`.

One pass over memory. Bytes of a number in float32: forward 8 (x in, y out), backward 12 (dy and x in, dx out). FLOPs:
an exponential and a division each way, and 7 products forward, 14 backward.

With s = 1 / (1 + exp(-2u)), 1 + tanh(u) = 2 s, and 1 - tanh(u)^2 = 4 s (1 - s): neither cancels for large |u|.
"""

import numpy as np
from numba import prange

from xplm.kernels import gelu as portable
from xplm.kernels.gelu import GeluSaved
from xplm_numpy.activations import CUBE, ONE, TWO_SCALE, gelu, share_of_gelu
from xplm_numpy.blocks import BLOCK, block_of
from xplm_numpy.jit import exact, parallel, serial
from xplm_numpy.narrow import bits, narrow, takes, widen


def gelu_fwd(x):
    if not takes(x):
        return portable.gelu_fwd(x)
    y = np.empty(x.shape, x.dtype)
    _forward(bits(x).reshape(-1), bits(y).reshape(-1))
    return y, GeluSaved(x)


def gelu_bwd(dy, saved):
    (x,) = saved
    if not takes(dy, x):
        return portable.gelu_bwd(dy, saved)
    dx = np.empty(x.shape, x.dtype)
    _backward(bits(dy).reshape(-1), bits(x).reshape(-1), bits(dx).reshape(-1))
    return (dx,)


@parallel()
def _forward(x, y):
    n = len(x)
    if n <= BLOCK:
        _forward_block(x, y)
    else:
        for b in prange(-(-n // BLOCK)):
            begin, end = block_of(b, BLOCK, n)
            _forward_block(x[begin:end], y[begin:end])


@parallel()
def _backward(dy, x, dx):
    n = len(x)
    if n <= BLOCK:
        _backward_block(dy, x, dx)
    else:
        for b in prange(-(-n // BLOCK)):
            begin, end = block_of(b, BLOCK, n)
            _backward_block(dy[begin:end], x[begin:end], dx[begin:end])


@exact()
def _forward_block(x, y):
    for i in range(len(x)):
        y[i] = narrow(gelu(widen(x[i])), y)


@serial()
def _backward_block(dy, x, dx):
    for i in range(len(x)):
        v = widen(x[i])
        s = share_of_gelu(v)

        # y = x s(2u),  2u = 2 SCALE (x + CUBIC x^3)
        du = TWO_SCALE * (ONE + np.float32(3.0) * CUBE * v * v)
        dx[i] = narrow(widen(dy[i]) * (s + v * s * (ONE - s) * du), dx)
