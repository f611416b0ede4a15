"""AdamW's rule, and Adam's, in one pass over memory. Derivation and signatures: `xplm.train.optimizers`.

Bytes of a number in float32: 28 (parameter, gradient and two moments in, parameter and two moments out). FLOPs: a root,
a division and 12 more. Masters are float32 or float64, and the arithmetic is theirs.
"""

from math import sqrt

import numpy as np
from numba import prange

from xplm_numpy.blocks import BLOCK, block_of
from xplm_numpy.jit import parallel, serial


def adamw_rule(param, grad, moments, *, spec, step, lr, options):
    decay = lr * options.weight_decay if spec.decays else 0.0
    return _updated(param, grad, moments, step, lr, options, 1.0 - decay, 0.0)


def adam_rule(param, grad, moments, *, spec, step, lr, options):
    penalty = options.weight_decay if spec.decays else 0.0
    return _updated(param, grad, moments, step, lr, options, 1.0, penalty)


def _updated(param, grad, moments, step, lr, options, shrink, penalty):
    new = [np.empty(param.shape, param.dtype) for _ in range(3)]
    numbers = (
        shrink,
        penalty,
        1.0 - options.beta1,
        options.beta2,
        1.0 - options.beta2,
        lr / (1.0 - options.beta1**step),
        1.0 / sqrt(1.0 - options.beta2**step),
        options.eps,
    )
    arrays = (param, grad, moments["exp_avg"], moments["exp_avg_sq"])
    _update(*(x.ravel() for x in (*arrays, *new)), *map(float, numbers))
    return new[0], {"exp_avg": new[1], "exp_avg_sq": new[2]}


@parallel()
def _update(p, g, m, v, new_p, new_m, new_v, shrink, penalty, mix1, keep2, mix2, rate, root, eps):
    dtype = p.dtype.type
    shrink, penalty, mix1, keep2 = dtype(shrink), dtype(penalty), dtype(mix1), dtype(keep2)
    mix2, rate, root, eps = dtype(mix2), dtype(rate), dtype(root), dtype(eps)
    n = len(p)
    if n <= BLOCK:
        _update_block(p, g, m, v, new_p, new_m, new_v, shrink, penalty, mix1, keep2, mix2, rate, root, eps)  # fmt: skip
    else:
        for b in prange(-(-n // BLOCK)):
            begin, end = block_of(b, BLOCK, n)
            _update_block(
                p[begin:end], g[begin:end], m[begin:end], v[begin:end],
                new_p[begin:end], new_m[begin:end], new_v[begin:end],
                shrink, penalty, mix1, keep2, mix2, rate, root, eps,
            )  # fmt: skip


@serial()
def _update_block(p, g, m, v, new_p, new_m, new_v, shrink, penalty, mix1, keep2, mix2, rate, root, eps):  # fmt: skip
    for i in range(len(p)):
        d = g[i] + penalty * p[i]
        mean = m[i] + mix1 * (d - m[i])
        square = keep2 * v[i] + mix2 * (d * d)
        new_m[i] = mean
        new_v[i] = square
        new_p[i] = shrink * p[i] - rate * (mean / (np.sqrt(square) * root + eps))
