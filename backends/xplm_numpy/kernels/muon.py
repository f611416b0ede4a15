"""Muon's rule: a pass over memory, products, and a pass. Derivation and signature: `xplm.train.optimizers.muon`.

Products are BLAS's, on the kernels' own threads (`xplm_numpy.blas`). A tall matrix is multiplied from its other side,
x (b A + c A^2) with A = x^T x, where the portable rule turns it.

Bytes of a number in float32: 16 before the products (gradient and buffer in, buffer and direction out), 12 after them
(parameter and step in, parameter out). FLOPs of n x m numbers, n <= m: 4 n^2 m + 2 n^3 a round. Masters are float32 or
float64, and the arithmetic is theirs.
"""

import numpy as np
from numba import prange

from xplm_numpy.blas import product
from xplm_numpy.blocks import BLOCK, block_of
from xplm_numpy.jit import parallel, serial
from xplm_numpy.kernels.adamw import adamw_rule


def muon_rule(param, grad, moments, *, spec, step, lr, options):
    if not spec.is_hidden_matrix:
        lr = lr * options.adamw_lr_ratio
        return adamw_rule(param, grad, moments, spec=spec, step=step, lr=lr, options=options)

    number = param.dtype.type
    buffer, direction, new = (np.empty(param.shape, param.dtype) for _ in range(3))
    arrays = (grad, moments["momentum_buffer"], buffer, direction)
    shares = number(options.momentum), number(1.0 - options.momentum)
    _mix(*(x.ravel() for x in arrays), *shares, options.nesterov)
    taken = _newton_schulz(direction, options)
    decay = lr * options.weight_decay if spec.decays else 0.0
    size = lr * options.adjustment(param.shape)
    _step(*(x.ravel() for x in (param, taken, new)), number(1.0 - decay), number(size))
    return new, {"momentum_buffer": buffer}


def _newton_schulz(x, options):
    a, b, c = options.COEFFICIENTS
    rows, columns = x.shape
    is_tall, n = rows > columns, min(rows, columns)
    A, square = np.empty((n, n), x.dtype), np.empty((n, n), x.dtype)

    x = x / np.maximum(np.sqrt(np.sum(x * x)), options.NORM_EPS)
    for _ in range(options.ns_steps):
        product(*((x.T, x) if is_tall else (x, x.T)), A)
        product(A, A, square)
        mixed = b * A + c * square
        x = product(*((x, mixed) if is_tall else (mixed, x)), a * x, is_added=True)
    return x


@parallel()
def _mix(grad, old, new, direction, keep, mix, is_ahead):
    n = len(grad)
    for b in prange(-(-n // BLOCK)):
        begin, end = block_of(b, BLOCK, n)
        _mix_block(
            grad[begin:end], old[begin:end], new[begin:end], direction[begin:end], keep, mix, is_ahead
        )  # fmt: skip


@serial()
def _mix_block(grad, old, new, direction, keep, mix, is_ahead):
    """The buffer follows the gradient; the direction is it, or with Nesterov's step ahead of it."""
    for i in range(len(grad)):
        mean = keep * old[i] + mix * grad[i]
        new[i] = mean
        direction[i] = keep * mean + mix * grad[i] if is_ahead else mean


@parallel()
def _step(p, taken, new, shrink, size):
    n = len(p)
    for b in prange(-(-n // BLOCK)):
        begin, end = block_of(b, BLOCK, n)
        _step_block(p[begin:end], taken[begin:end], new[begin:end], shrink, size)


@serial()
def _step_block(p, taken, new, shrink, size):
    for i in range(len(p)):
        new[i] = shrink * p[i] - size * taken[i]
