"""The rule of stochastic gradient descent in one pass over memory. Derivation: `xplm.train.optimizers.sgd`.

Bytes of a number in float32: 12, with momentum 20 (parameter, gradient and buffer in, parameter and buffer out).
FLOPs: 4, with momentum 6, Nesterov's 8.
"""

import numpy as np
from numba import prange

from xplm_numpy.blocks import BLOCK, block_of
from xplm_numpy.jit import parallel, serial


def sgd_rule(param, grad, moments, *, spec, step, lr, options):
    number = param.dtype.type
    decay = options.weight_decay if spec.decays else 0.0
    kept = list(moments.values())  # the buffer, where there is momentum
    buffer = kept[0] if kept else param.reshape(-1)[:0]
    new_param, new_buffer = np.empty_like(param), np.empty_like(buffer)

    # With momentum a step is by  now g + ahead b:  b alone, or Nesterov's mixture.
    now, ahead = (1.0, options.momentum) if options.nesterov else (0.0, 1.0)
    arrays = (param, grad, buffer, new_param, new_buffer)
    numbers = (number(x) for x in (decay, lr, options.momentum, now, ahead))
    _update(*(x.ravel() for x in arrays), *numbers)
    return new_param, {"momentum_buffer": new_buffer} if kept else {}


@parallel()
def _update(p, g, buffer, new_p, new_buffer, decay, lr, momentum, now, ahead):
    n = len(p)
    for b in prange(-(-n // BLOCK)):
        begin, end = block_of(b, BLOCK, n)
        if len(buffer):
            _with_momentum(
                p[begin:end], g[begin:end], buffer[begin:end], new_p[begin:end], new_buffer[begin:end],
                decay, lr, momentum, now, ahead,
            )  # fmt: skip
        else:
            _plain(p[begin:end], g[begin:end], new_p[begin:end], decay, lr)


@serial()
def _with_momentum(p, g, buffer, new_p, new_buffer, decay, lr, momentum, now, ahead):
    for i in range(len(p)):
        d = g[i] + decay * p[i]
        b = momentum * buffer[i] + d
        new_buffer[i] = b
        new_p[i] = p[i] - lr * (now * d + ahead * b)


@serial()
def _plain(p, g, new_p, decay, lr):
    for i in range(len(p)):
        new_p[i] = p[i] - lr * (g[i] + decay * p[i])
