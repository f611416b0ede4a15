"""Adafactor: Adam's second moment of a matrix from its row and column means alone, and steps in units of the weights.

For a matrix, with beta_t = 1 - t^decay_rate,

    r <- beta_t r + (1 - beta_t) mean over columns of g^2          (rows, 1)
    c <- beta_t c + (1 - beta_t) mean over rows of g^2             (1, columns)
    v  = r c / mean(r)

the rank-one matrix that is nearest to the running mean of g^2 in generalised Kullback-Leibler divergence: it has the
same row and column sums. Of matrices stacked, as those of experts, each has its own r and c; a vector keeps v in full.
Then, with rms(x) = sqrt(mean(x^2)),

    u  = g / sqrt(v)
    u  = u / max(1, rms(u) / clip_threshold)                       where v lags behind a growing gradient
    p <- (1 - lr decay) p - max(eps2, rms(p)) min(lr, 1 / sqrt(t)) u

Source: Shazeer and Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", arXiv:1804.04235, algorithms
4 and 5. As in torch.optim.Adafactor, lr takes the place of the constant 0.01 there, eps1 bounds mean(r) and sqrt(v)
from below instead of being added to g^2, and weight decay is AdamW's.
"""

from dataclasses import dataclass
from math import inf, sqrt

from array_api_compat import device

from xplm.namespace import array_namespace
from xplm.params import ParamSpec
from xplm.train.optimizers.optimizer import Optimizer, require_between, weight_decay
from xplm.typing import Array, Params


@dataclass(frozen=True)
class AdafactorOptions:
    decay_rate: float = -0.8  # exponent of t in 1 - beta_t, in [-1, 0)
    eps2: float = 1e-3  # the least rms that a parameter counts as
    clip_threshold: float = 1.0  # the largest rms of u, at least 1
    weight_decay: float = 0.0  # share of a weight taken off at a learning rate of 1

    def __post_init__(self) -> None:
        """Check the ranges."""
        require_between(self, -1.0, 0.0, "decay_rate")
        require_between(self, 0.0, inf, "eps2", "weight_decay")
        require_between(self, 1.0, inf, "clip_threshold")


def make_moments(param: Array, spec: ParamSpec, options: AdafactorOptions) -> Params:
    """Zeros: a column and a row for each matrix, the parameter's shape for a vector."""
    xp = array_namespace(param)
    if param.ndim < 2:
        return {"variance": xp.zeros_like(param)}
    *stacked, rows, columns = param.shape
    return {
        "row_var": xp.zeros((*stacked, rows, 1), dtype=param.dtype, device=device(param)),
        "col_var": xp.zeros((*stacked, 1, columns), dtype=param.dtype, device=device(param)),
    }


def adafactor_rule(
    param: Array,
    grad: Array,
    moments: Params,
    *,
    spec: ParamSpec,
    step: int,
    lr: float,
    options: AdafactorOptions,
) -> tuple[Array, Params]:
    """One tensor's step."""
    xp = array_namespace(param)
    eps1 = float(xp.finfo(param.dtype).eps)
    new_share = step**options.decay_rate  # 1 - beta_t

    square = grad * grad
    if "variance" in moments:
        v = _mix(moments["variance"], square, new_share)
        moments = {"variance": v}
    else:
        row = _mix(moments["row_var"], xp.mean(square, axis=-1, keepdims=True), new_share)
        col = _mix(moments["col_var"], xp.mean(square, axis=-2, keepdims=True), new_share)
        v = row * (col / xp.maximum(xp.mean(row, axis=-2, keepdims=True), eps1))
        moments = {"row_var": row, "col_var": col}

    u = grad / xp.sqrt(xp.maximum(v, eps1 * eps1))
    size = xp.maximum(_rms(param), options.eps2) * min(lr, 1.0 / sqrt(step))
    size = size / xp.maximum(_rms(u) / options.clip_threshold, 1.0)
    return (1.0 - lr * weight_decay(spec, options)) * param - size * u, moments


def _mix(old: Array, new: Array, new_share: float) -> Array:
    return old + new_share * (new - old)


def _rms(x: Array) -> Array:
    xp = array_namespace(x)
    return xp.sqrt(xp.mean(x * x))


ADAFACTOR = Optimizer(AdafactorOptions, make_moments, adafactor_rule)
