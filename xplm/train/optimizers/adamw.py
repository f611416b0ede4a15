"""AdamW: Adam, with weight decay beside the gradient instead of inside it.

    p <- (1 - lr decay) p - lr m^ / (sqrt(v^) + eps)           m^, v^ of the gradient alone, as in adam.py

In Adam the penalty's gradient is divided by sqrt(v^) like the rest, so weights with large gradients decay less. Here
all shrink at one rate.

Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", arXiv:1711.05101, algorithm 2, with the decay
multiplied by the learning rate, as torch.optim.AdamW does.
"""

from dataclasses import dataclass
from math import inf
from typing import Any

from xplm.params import ParamSpec
from xplm.train.optimizers.adam import adam_step, make_moments
from xplm.train.optimizers.optimizer import Optimizer, require_between, weight_decay
from xplm.typing import Array, Params


@dataclass(frozen=True)
class AdamWOptions:
    beta1: float = 0.9  # share of the old mean that stays, in [0, 1)
    beta2: float = 0.999  # the same for the mean square
    eps: float = 1e-8  # added to the root
    weight_decay: float = 0.01  # share of a weight taken off at a learning rate of 1

    def __post_init__(self) -> None:
        """Check the ranges."""
        require_between(self, 0.0, 1.0, "beta1", "beta2")
        require_between(self, 0.0, inf, "eps", "weight_decay")


def adamw_rule(
    param: Array,
    grad: Array,
    moments: Params,
    *,
    spec: ParamSpec,
    step: int,
    lr: float,
    options: Any,
) -> tuple[Array, Params]:
    """One tensor's step. `options` is anything with an AdamWOptions' fields."""
    taken, moments = adam_step(grad, moments, step=step, lr=lr, options=options)
    return (1.0 - lr * weight_decay(spec, options)) * param - taken, moments


ADAMW = Optimizer(AdamWOptions, make_moments, adamw_rule)
