"""SwiGLU, fused. Derivation and signatures: `xplm.kernels.swiglu`.

One pass over memory. Bytes of a number in float32: forward 12 (gate and up in, y out), backward 20 (dy, gate and up in,
dgate and dup out). FLOPs: an exponential and a division each way, and 4 products forward, 9 backward.
"""

import numpy as np
from numba import prange

from xplm.kernels import swiglu as portable
from xplm.kernels.swiglu import SwigluSaved
from xplm_numpy.activations import SATURATED
from xplm_numpy.blocks import BLOCK, block_of
from xplm_numpy.exp import exp
from xplm_numpy.jit import exact, parallel, serial
from xplm_numpy.narrow import bits, narrow, takes, widen


def swiglu_fwd(gate, up):
    if not takes(gate, up):
        return portable.swiglu_fwd(gate, up)
    y = np.empty(gate.shape, gate.dtype)
    _forward(bits(gate).reshape(-1), bits(up).reshape(-1), bits(y).reshape(-1))
    return y, SwigluSaved(gate, up)


def swiglu_bwd(dy, saved):
    gate, up = saved
    if not takes(dy, gate, up):
        return portable.swiglu_bwd(dy, saved)
    dgate, dup = np.empty(gate.shape, gate.dtype), np.empty(up.shape, up.dtype)
    _backward(*(bits(x).reshape(-1) for x in (dy, gate, up, dgate, dup)))
    return dgate, dup


@parallel()
def _forward(gate, up, y):
    n = len(y)
    if n <= BLOCK:
        _forward_block(gate, up, y)
    else:
        for b in prange(-(-n // BLOCK)):
            begin, end = block_of(b, BLOCK, n)
            _forward_block(gate[begin:end], up[begin:end], y[begin:end])


@parallel()
def _backward(dy, gate, up, dgate, dup):
    n = len(dy)
    if n <= BLOCK:
        _backward_block(dy, gate, up, dgate, dup)
    else:
        for b in prange(-(-n // BLOCK)):
            begin, end = block_of(b, BLOCK, n)
            dg, du = dgate[begin:end], dup[begin:end]
            _backward_block(dy[begin:end], gate[begin:end], up[begin:end], dg, du)


@exact()
def _forward_block(gate, up, y):
    for i in range(len(y)):
        g = widen(gate[i])
        y[i] = narrow(g * _sigmoid(g) * widen(up[i]), y)


@serial()
def _backward_block(dy, gate, up, dgate, dup):
    for i in range(len(dy)):
        g, d = widen(gate[i]), widen(dy[i])
        s = _sigmoid(g)

        # y = g s(g) * up
        dgate[i] = narrow(
            d * widen(up[i]) * s * (np.float32(1.0) + g * (np.float32(1.0) - s)), dgate
        )
        dup[i] = narrow(d * g * s, dup)


@exact()
def _sigmoid(x):
    e = exp(min(x, SATURATED))
    return e / (np.float32(1.0) + e)
