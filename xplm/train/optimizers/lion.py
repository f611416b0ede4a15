"""Lion: the sign of a momentum, so that every number moves by the same amount.

    c <- beta1 m + (1 - beta1) g
    p <- (1 - lr decay) p - lr sign(c)
    m <- beta2 m + (1 - beta2) g

The step mixes in more of the new gradient than the momentum keeps. A learning rate 3 to 10 times smaller than AdamW's,
and a decay as much larger, do the same work (section 5 there).

Source: Chen et al., "Symbolic Discovery of Optimization Algorithms", arXiv:2302.06675, algorithm 2.
"""

from dataclasses import dataclass
from math import inf

from xplm.namespace import array_namespace
from xplm.params import ParamSpec
from xplm.train.optimizers.optimizer import Optimizer, require_between, weight_decay
from xplm.typing import Array, Params


@dataclass(frozen=True)
class LionOptions:
    beta1: float = 0.9  # share of the momentum in the step, in [0, 1)
    beta2: float = 0.99  # share of the old momentum that stays, in [0, 1)
    weight_decay: float = 0.0  # share of a weight taken off at a learning rate of 1

    def __post_init__(self) -> None:
        """Check the ranges."""
        require_between(self, 0.0, 1.0, "beta1", "beta2")
        require_between(self, 0.0, inf, "weight_decay")


def make_moments(param: Array, spec: ParamSpec, options: LionOptions) -> Params:
    """One zero of the parameter's shape."""
    return {"exp_avg": array_namespace(param).zeros_like(param)}


def lion_rule(
    param: Array,
    grad: Array,
    moments: Params,
    *,
    spec: ParamSpec,
    step: int,
    lr: float,
    options: LionOptions,
) -> tuple[Array, Params]:
    """One tensor's step."""
    xp = array_namespace(param)
    m = moments["exp_avg"]
    direction = xp.sign(options.beta1 * m + (1.0 - options.beta1) * grad)
    m = options.beta2 * m + (1.0 - options.beta2) * grad

    param = (1.0 - lr * weight_decay(spec, options)) * param - lr * direction
    return param, {"exp_avg": m}


LION = Optimizer(LionOptions, make_moments, lion_rule)
