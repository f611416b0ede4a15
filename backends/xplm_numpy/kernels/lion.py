"""Lion's rule in one pass over memory. Derivation and signature: `xplm.train.optimizers.lion`.

Bytes of a number in float32: 20 (parameter, gradient and momentum in, parameter and momentum out). FLOPs: 9.
"""

import numpy as np
from numba import prange

from xplm_numpy.blocks import BLOCK, block_of
from xplm_numpy.jit import parallel, serial


def lion_rule(param, grad, moments, *, spec, step, lr, options):
    number = param.dtype.type
    decay = lr * options.weight_decay if spec.decays else 0.0
    new = [np.empty(param.shape, param.dtype) for _ in range(2)]
    numbers = (
        number(1.0 - decay),
        number(lr),
        number(options.beta1),
        number(1.0 - options.beta1),
        number(options.beta2),
        number(1.0 - options.beta2),
    )
    arrays = (param, grad, moments["exp_avg"], *new)
    _update(*(x.ravel() for x in arrays), *numbers)
    return new[0], {"exp_avg": new[1]}


@parallel()
def _update(p, g, m, new_p, new_m, shrink, lr, keep1, mix1, keep2, mix2):
    n = len(p)
    for b in prange(-(-n // BLOCK)):
        begin, end = block_of(b, BLOCK, n)
        _update_block(
            p[begin:end], g[begin:end], m[begin:end], new_p[begin:end], new_m[begin:end],
            shrink, lr, keep1, mix1, keep2, mix2,
        )  # fmt: skip


@serial()
def _update_block(p, g, m, new_p, new_m, shrink, lr, keep1, mix1, keep2, mix2):
    for i in range(len(p)):
        direction = np.sign(keep1 * m[i] + mix1 * g[i])
        new_p[i] = shrink * p[i] - lr * direction
        new_m[i] = keep2 * m[i] + mix2 * g[i]
