"""Adam: a step for each number in units of its gradient's root mean square.

    g <- g + decay p                                   the gradient of an L2 penalty
    m <- beta1 m + (1 - beta1) g                       mean of the gradient
    v <- beta2 v + (1 - beta2) g^2                     mean of its square
    p <- p - lr m^ / (sqrt(v^) + eps)                  m^ = m / (1 - beta1^t),  v^ = v / (1 - beta2^t)

m and v begin at 0, so after t steps their weights add up to 1 - beta^t; dividing by it makes means of them.

Source: Kingma and Ba, "Adam: A Method for Stochastic Optimization", arXiv:1412.6980, algorithm 1; eps is added to the
corrected root, as there and in torch.optim.Adam.
"""

from dataclasses import dataclass
from math import inf, sqrt
from typing import Any

from xplm.namespace import array_namespace
from xplm.params import ParamSpec
from xplm.train.optimizers.optimizer import Optimizer, require_between, weight_decay
from xplm.typing import Array, Params


@dataclass(frozen=True)
class AdamOptions:
    beta1: float = 0.9  # share of the old mean that stays, in [0, 1)
    beta2: float = 0.999  # the same for the mean square
    eps: float = 1e-8  # added to the root
    weight_decay: float = 0.0  # weight of the L2 penalty

    def __post_init__(self) -> None:
        """Check the ranges."""
        require_between(self, 0.0, 1.0, "beta1", "beta2")
        require_between(self, 0.0, inf, "eps", "weight_decay")


def make_moments(param: Array, spec: ParamSpec, options: Any) -> Params:
    """Two zeros of the parameter's shape."""
    xp = array_namespace(param)
    return {"exp_avg": xp.zeros_like(param), "exp_avg_sq": xp.zeros_like(param)}


def adam_step(
    grad: Array, moments: Params, *, step: int, lr: float, options: Any
) -> tuple[Array, Params]:
    """lr m^ / (sqrt(v^) + eps), what is to be taken off the parameter, and the moments behind it.

    Args:
        grad: one tensor's gradient.
        moments: its "exp_avg" and "exp_avg_sq".
        step: t, 1 at the first update.
        lr: learning rate.
        options: anything with beta1, beta2 and eps.
    """
    xp = array_namespace(grad)
    m, v = moments["exp_avg"], moments["exp_avg_sq"]
    m = m + (1.0 - options.beta1) * (grad - m)
    v = options.beta2 * v + (1.0 - options.beta2) * (grad * grad)

    root = xp.sqrt(v) * (1.0 / sqrt(1.0 - options.beta2**step)) + options.eps
    taken = (lr / (1.0 - options.beta1**step)) * (m / root)
    return taken, {"exp_avg": m, "exp_avg_sq": v}


def adam_rule(
    param: Array,
    grad: Array,
    moments: Params,
    *,
    spec: ParamSpec,
    step: int,
    lr: float,
    options: AdamOptions,
) -> tuple[Array, Params]:
    """One tensor's step."""
    decay = weight_decay(spec, options)
    grad = grad + decay * param if decay else grad
    taken, moments = adam_step(grad, moments, step=step, lr=lr, options=options)
    return param - taken, moments


ADAM = Optimizer(AdamOptions, make_moments, adam_rule)
