"""Stochastic gradient descent, with momentum.

    g <- g + decay p                 the gradient of an L2 penalty
    b <- momentum b + g
    p <- p - lr b                    or, Nesterov's:  p <- p - lr (g + momentum b)

Sources: Polyak, "Some methods of speeding up the convergence of iteration methods", USSR Comp. Math. 4 (1964);
Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML 2013, section 2, with the
learning rate outside of the buffer and Nesterov's step taken from where the parameters are, as torch.optim.SGD does.
"""

from dataclasses import dataclass
from math import inf

from xplm.errors import RequestError
from xplm.namespace import array_namespace
from xplm.params import ParamSpec
from xplm.train.optimizers.optimizer import Optimizer, require_between, weight_decay
from xplm.typing import Array, Params


@dataclass(frozen=True)
class SGDOptions:
    momentum: float = 0.0  # share of the buffer that stays, in [0, 1); 0 keeps no buffer
    nesterov: bool = False
    weight_decay: float = 0.0  # weight of the L2 penalty

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not isinstance(self.nesterov, bool):
            raise RequestError(f"nesterov is true or false; got {self.nesterov!r}")
        require_between(self, 0.0, 1.0, "momentum")
        require_between(self, 0.0, inf, "weight_decay")
        if self.nesterov and self.momentum == 0.0:
            raise RequestError("nesterov needs a momentum above 0; got momentum = 0")


def make_moments(param: Array, spec: ParamSpec, options: SGDOptions) -> Params:
    """The momentum buffer, where there is momentum."""
    if options.momentum == 0.0:
        return {}
    return {"momentum_buffer": array_namespace(param).zeros_like(param)}


def sgd_rule(
    param: Array,
    grad: Array,
    moments: Params,
    *,
    spec: ParamSpec,
    step: int,
    lr: float,
    options: SGDOptions,
) -> tuple[Array, Params]:
    """One tensor's step."""
    decay = weight_decay(spec, options)
    grad = grad + decay * param if decay else grad
    if options.momentum == 0.0:
        return param - lr * grad, {}

    buffer = options.momentum * moments["momentum_buffer"] + grad
    direction = grad + options.momentum * buffer if options.nesterov else buffer
    return param - lr * direction, {"momentum_buffer": buffer}


SGD = Optimizer(SGDOptions, make_moments, sgd_rule)
