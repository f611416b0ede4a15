"""Weights of the chosen experts, fused. Derivation and signatures: `xplm.kernels.router`.

Bytes in float32: 8 E a row (logits in, scores out); FLOPs: an exponential an expert. A token's row is a few hundred
numbers, so what is saved are the calls of a dozen small operations. Backward is the portable kernel's.
"""

import numpy as np
from numba import prange

from xplm.kernels import router as portable
from xplm.kernels.router import SMALLEST, RouterSaved
from xplm_numpy.activations import SATURATED
from xplm_numpy.exp import exp
from xplm_numpy.jit import parallel, serial
from xplm_numpy.narrow import bits, in_float32, narrow, takes, widen

ROWS_PER_BLOCK = 64
ONE = np.float32(1.0)


def router_fwd(logits, chosen, *, scores, is_normalised, factor, island=None):
    options = {"scores": scores, "is_normalised": is_normalised, "factor": factor}
    if not takes(logits) or not in_float32(island):
        return portable.router_fwd(logits, chosen, island=island, **options)

    p, w = np.empty(logits.shape, np.float32), np.empty(chosen.shape, logits.dtype)
    places = np.array(chosen, np.int64, order="C")
    is_softmax = scores == "softmax"
    _forward(bits(logits), places, is_softmax, is_normalised, np.float32(factor), p, bits(w))
    return w, RouterSaved(p, chosen, logits.dtype, scores, is_normalised, factor)


def router_bwd(dw, saved):
    return portable.router_bwd(dw, saved)


@parallel()
def _forward(logits, chosen, is_softmax, is_normalised, factor, p, w):
    N = len(logits)
    if N <= ROWS_PER_BLOCK:
        _forward_rows(logits, chosen, is_softmax, is_normalised, factor, p, w, 0, N)
    else:
        for b in prange(-(-N // ROWS_PER_BLOCK)):
            begin = np.int64(b) * ROWS_PER_BLOCK
            end = min(N, begin + ROWS_PER_BLOCK)
            _forward_rows(logits, chosen, is_softmax, is_normalised, factor, p, w, begin, end)


@serial()
def _forward_rows(logits, chosen, is_softmax, is_normalised, factor, p, w, begin, end):
    E, k = logits.shape[1], chosen.shape[1]
    for n in range(begin, end):
        if is_softmax:
            _softmax_row(logits[n], p[n])
        else:
            for e in range(E):
                z = exp(min(widen(logits[n, e]), SATURATED))
                p[n, e] = z / (ONE + z)

        total = ONE
        if is_normalised:
            total = np.float32(SMALLEST)
            for j in range(k):
                total += p[n, chosen[n, j]]
        for j in range(k):
            w[n, j] = narrow(factor * (p[n, chosen[n, j]] / total), w)


@serial()
def _softmax_row(z, y):
    highest = widen(z[0])
    for e in range(len(z)):
        highest = max(highest, widen(z[e]))
    total = np.float32(0.0)
    for e in range(len(z)):
        y[e] = exp(widen(z[e]) - highest)
        total += y[e]
    for e in range(len(z)):
        y[e] /= total
