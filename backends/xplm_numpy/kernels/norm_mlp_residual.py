"""Norm, gated MLP and residual in one call. What it computes: `xplm.kernels.fusions.norm_mlp_residual`.

Bytes: those of the three weights, 3 C F numbers; FLOPs: 2 B of each.
"""

import numpy as np
from numba import prange

from xplm.kernels.fusions.norm_mlp_residual import norm_mlp_residual as portable
from xplm.kernels.swiglu import SATURATED
from xplm_numpy.arrays import empty
from xplm_numpy.exp import exp
from xplm_numpy.gemv import STREAMS, count_blocks, count_rows, finish, multiply, row_of
from xplm_numpy.jit import parallel, serial
from xplm_numpy.narrow import alike, bias_bits, bits, in_float32, narrow, takes, widen

STRETCH = 16
"""Blocks of one matrix that are read before those of the other: a processor foresees what is read in a row."""


def norm_mlp_residual(
    x, residual, norm, gate_weight, up_weight, down_weight, gate_bias, up_bias, down_bias, *, eps, island=None
):  # fmt: skip
    weights, biases = (gate_weight, up_weight, down_weight), (gate_bias, up_bias, down_bias)
    is_taken = takes(x, residual, norm, *weights, *biases) and alike(weights)
    if x.shape[1] != 1 or not in_float32(island) or not is_taken:
        return portable(x, residual, norm, *weights, *biases, eps=eps, island=island)

    y = np.empty(x.shape, x.dtype)
    compute(
        bits(x),
        bits(residual),
        bits(norm),
        *map(bits, weights),
        *map(bias_bits, biases, weights),
        np.float32(eps),
        bits(y),
    )
    return y


@serial()
def normalise(x, weight, eps):
    """float32 rows x / rms(x) * weight of x (B, C), rounded where the portable kernel rounds."""
    B, C = x.shape
    y = empty((B, C))
    for b in range(B):
        total = np.float32(0.0)
        for c in range(C):
            total += widen(x[b, c]) * widen(x[b, c])
        rstd = np.float32(1.0) / np.sqrt(total / np.float32(C) + eps)

        for c in range(C):
            n = widen(narrow(widen(x[b, c]) * rstd, x))
            y[b, c] = widen(narrow(n * widen(narrow(widen(weight[c]), x)), x))
    return y


@parallel()
def compute(
    x, residual, norm, gate_weight, up_weight, down_weight, gate_bias, up_bias, down_bias, eps, y
):
    B, _, C = x.shape
    F = len(gate_weight)
    rows = normalise(x.reshape(B, C), norm, eps)
    gate, up, hidden = empty((B, F)), empty((B, F)), empty((B, F))
    blocks = count_blocks(gate_weight)
    for unsigned in prange((blocks + STRETCH - 1) // STRETCH):
        begin = np.int64(unsigned) * STRETCH
        stretch = range(begin, min(blocks, begin + STRETCH))
        for is_up in range(2):
            weight, sums = (up_weight, up) if is_up else (gate_weight, gate)
            for block in stretch:
                multiply(rows, weight, block, sums)
        activate(gate, up, gate_bias, up_bias, begin, stretch.stop, x, hidden)

    down = empty((B, len(down_weight)))
    for unsigned in prange(count_blocks(down_weight)):
        block = np.int64(unsigned)
        multiply(hidden, down_weight, block, down)
        add_residual(down, down_bias, block, residual, y)


@serial()
def activate(gate, up, gate_bias, up_bias, begin, end, like, hidden):
    """hidden = silu(gate) * up, in the columns of blocks from `begin` on, before `end`.   gate, up, hidden (B, F)"""
    B, F = hidden.shape
    whole = min(end, F // STREAMS)
    for b in range(B):
        for i in range(STREAMS):
            for n in range(row_of(F, begin, i), row_of(F, begin, i) + whole - begin):
                hidden[b, n] = _gated(gate, up, gate_bias, up_bias, b, n, like)
        if end > whole:
            for n in range(STREAMS * whole, F):
                hidden[b, n] = _gated(gate, up, gate_bias, up_bias, b, n, like)


@serial()
def _gated(gate, up, gate_bias, up_bias, b, n, like):
    """silu(gate) * up, rounded as the array `like` stores it."""
    g, u = finish(gate, gate_bias, b, n, like), finish(up, up_bias, b, n, like)
    e = exp(min(g, np.float32(SATURATED)))
    return widen(narrow(g * (e / (np.float32(1.0) + e)) * u, like))


@serial()
def add_residual(sums, bias, block, x, y):
    """y = x + products, in the columns of one block.   x, y (B, 1, C)"""
    C = y.shape[2]
    for i in range(count_rows(C, block)):
        n = row_of(C, block, i)
        for b in range(len(y)):
            y[b, 0, n] = narrow(widen(x[b, 0, n]) + finish(sums, bias, b, n, y), y)
