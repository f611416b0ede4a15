"""An exponential moving average of the weights, which is smoother than the last of them.

    average <- average + (1 - decay_t) (params - average)
    decay_t  = min(decay, (1 + t) / (10 + t))

The smaller decay of the first steps lets the average forget the initial weights. It trails by about 1 / (1 - decay)
steps.

Sources: Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", SIAM J. Control Optim. 30 (1992);
Tarvainen and Valpola, arXiv:1703.01780, section 2, for weights averaged exponentially; decay_t as TensorFlow's
ExponentialMovingAverage has it.

Numerics. In float32 a difference below 2^-24 |average| / (1 - decay) rounds away: at a decay of 0.9999, one below
6e-4 of the weight.
"""

from xplm.typing import Params


def ema_decay(decay: float, step: int) -> float:
    """decay_t of update `step`, counted from 0."""
    return min(decay, (1 + step) / (10 + step))


def ema_update(average: Params, params: Params, decay: float) -> Params:
    """The next average; the first is the initial parameters themselves.

    Args:
        average: the last one, float32 or wider.
        params: the parameters after this step, under the same names.
        decay: share of the old average that stays, in [0, 1).
    """
    return {name: old + (1.0 - decay) * (params[name] - old) for name, old in average.items()}
