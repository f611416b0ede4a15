"""Adafactor's rule in three passes over memory. Derivation and signature: `xplm.train.optimizers.adafactor`.

    sums      p^2, and g^2 by row and by column
    updates   u^2, which the size of the step waits for
    step      p

Each pass needs the last number of the one before it. u is computed twice, which costs less than keeping it, for with

    u = g min(a_r b_c, 1 / eps1)        a = row^-1/2,    b = (col / mean(row))^-1/2

there is a root for each row and each column, and none for each number. A vector is a matrix of one row, and so one
thread's: the sums of its columns are its squares, and a is 1.

Bytes of a number in float32: 24 (parameter and gradient in, gradient in, both in and parameter out), and a sum for each
column of a block. FLOPs: 14. Masters are float32 or float64, and the arithmetic is theirs. A block is so many rows, by
the sizes of the matrix alone; sums of blocks are joined in their order.
"""

from math import sqrt

import numpy as np
from numba import prange

from xplm.errors import KernelError
from xplm_numpy.blocks import BLOCK, block_of
from xplm_numpy.jit import parallel, serial
from xplm_numpy.narrow import contiguous

ROWS = 32
"""The fewest rows of a block: each block has a sum for every column."""


def adafactor_rule(param, grad, moments, *, spec, step, lr, options):
    if param.ndim > 2:
        raise KernelError("matrices that are stacked are the portable rule's")
    if param.size == 0:
        return param.copy(), moments
    number = param.dtype.type
    new_share = number(step**options.decay_rate)
    eps1 = np.finfo(param.dtype).eps
    shape = (1, param.size) if "variance" in moments else param.shape
    p, g = (contiguous(x).reshape(shape) for x in (param, grad))
    new = np.empty(shape, param.dtype)
    R, C = shape

    size = max(BLOCK // max(C, 1), ROWS)
    blocks = -(-R // size)
    rows, columns = np.empty((R, 1), param.dtype), np.empty((blocks, C), param.dtype)
    squares = np.empty(blocks, param.dtype)  # of a block's parameters, then of its updates
    _sums(p, g, size, rows, columns, squares)
    rms_param = np.sqrt(squares.sum() / number(p.size))
    columns = columns.sum(axis=0, keepdims=True)

    if "variance" in moments:
        variance = _mix(moments["variance"], columns.reshape(param.shape), new_share)
        row, col = np.ones((1, 1), param.dtype), variance
        new_moments = {"variance": variance}
    else:
        row = _mix(moments["row_var"], rows / number(C), new_share)
        col = _mix(moments["col_var"], columns / number(R), new_share)
        new_moments = {"row_var": row, "col_var": col}
        col = col / np.maximum(row.mean(), eps1)

    with np.errstate(divide="ignore"):
        factors = (1.0 / np.sqrt(row).reshape(-1), 1.0 / np.sqrt(col).reshape(-1), 1.0 / eps1)
    _updates(g, *factors, size, squares)
    rms_update = np.sqrt(squares.sum() / number(p.size))
    taken = np.maximum(rms_param, options.eps2) * min(lr, 1.0 / sqrt(step))
    taken = taken / np.maximum(rms_update / options.clip_threshold, 1.0)
    shrink = 1.0 - lr * options.weight_decay if spec.decays else 1.0
    _step(p, g, *factors, number(shrink), number(taken), size, new)
    return new.reshape(param.shape), new_moments


def _mix(old, new, new_share):
    return old + new_share * (new - old)


@parallel()
def _sums(p, g, size, rows, columns, squares):
    n = len(p)
    if n <= size:
        squares[0] = _sums_block(p, g, rows, columns[0])
    else:
        for block in prange(len(squares)):
            begin, end = block_of(block, size, n)
            squares[block] = _sums_block(
                p[begin:end], g[begin:end], rows[begin:end], columns[block]
            )


@parallel()
def _updates(g, a, b, cap, size, squares):
    n = len(g)
    if n <= size:
        squares[0] = _updates_block(g, a, b, cap)
    else:
        for block in prange(len(squares)):
            begin, end = block_of(block, size, n)
            squares[block] = _updates_block(g[begin:end], a[begin:end], b, cap)


@parallel()
def _step(p, g, a, b, cap, shrink, taken, size, new):
    n = len(p)
    if n <= size:
        _step_block(p, g, a, b, cap, shrink, taken, new)
    else:
        for block in prange(-(-n // size)):
            begin, end = block_of(block, size, n)
            _step_block(
                p[begin:end], g[begin:end], a[begin:end], b, cap, shrink, taken, new[begin:end]
            )


@serial()
def _sums_block(p, g, rows, columns):
    """Sums of the gradient's squares by row and by column, and of the parameter's, which is returned."""
    R, C = p.shape
    columns[:] = 0.0
    total = p.dtype.type(0.0)
    for r in range(R):
        row, own = p.dtype.type(0.0), p.dtype.type(0.0)
        for c in range(C):
            square = g[r, c] * g[r, c]
            columns[c] += square
            row += square
            own += p[r, c] * p[r, c]
        rows[r, 0] = row
        total += own
    return total


@serial()
def _updates_block(g, a, b, cap):
    R, C = g.shape
    total = g.dtype.type(0.0)
    for r in range(R):
        row = g.dtype.type(0.0)
        for c in range(C):
            u = g[r, c] * _capped(a[r] * b[c], cap)
            row += u * u
        total += row
    return total


@serial()
def _step_block(p, g, a, b, cap, shrink, taken, new):
    R, C = p.shape
    for r in range(R):
        for c in range(C):
            new[r, c] = shrink * p[r, c] - taken * (g[r, c] * _capped(a[r] * b[c], cap))


@serial()
def _capped(x, cap):
    return cap if x > cap else x  # NaN stays
