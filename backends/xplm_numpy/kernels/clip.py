"""Clipping by the global norm, with one pass over memory for the norm and another only where it is too long.

Bytes of a number in float32: 4, and 8 more where gradients are scaled. Derivation and signatures: `xplm.train.clip`.
Squares are summed over blocks of one length, then over the blocks in order, then over the gradients in theirs.
"""

import numpy as np
from numba import prange

from xplm_numpy.blocks import BLOCK, block_of
from xplm_numpy.jit import parallel, serial


def clip_by_global_norm(grads, max_norm):
    norm = np.sqrt(sum(_square(grad) for grad in grads.values()))
    if max_norm is None or norm <= max_norm:
        return grads, norm
    scale = norm.dtype.type(max_norm / norm)
    return {name: _scaled(grad, scale) for name, grad in grads.items()}, norm


def _square(grad):
    """The sum of its squares, in its dtype."""
    rows = grad.ravel()
    partial = np.empty(max(1, -(-rows.size // BLOCK)), grad.dtype)
    _sum_squares(rows, partial)
    return partial.sum()


def _scaled(grad, scale):
    out = np.empty(grad.shape, grad.dtype)
    _scale(grad.ravel(), scale, out.reshape(-1))
    return out


@parallel()
def _sum_squares(x, partial):
    n = len(x)
    if n <= BLOCK:
        partial[0] = _square_block(x)
    else:
        for b in prange(len(partial)):
            begin, end = block_of(b, BLOCK, n)
            partial[b] = _square_block(x[begin:end])


@parallel()
def _scale(x, scale, out):
    n = len(x)
    if n <= BLOCK:
        _scale_block(x, scale, out)
    else:
        for b in prange(-(-n // BLOCK)):
            begin, end = block_of(b, BLOCK, n)
            _scale_block(x[begin:end], scale, out[begin:end])


@serial()
def _square_block(x):
    total = x.dtype.type(0.0)
    for i in range(len(x)):
        total += x[i] * x[i]
    return total


@serial()
def _scale_block(x, scale, out):
    for i in range(len(x)):
        out[i] = x[i] * scale
