"""Muon: for matrices inside the blocks, a momentum whose singular values are all brought near 1; AdamW for the rest.

    b <- momentum b + (1 - momentum) g
    d  = momentum b + (1 - momentum) g                 Nesterov's, or d = b
    p <- (1 - lr decay) p - lr s newton_schulz(d)      s below

With d = U S V^T, the step sought is U V^T: of all steps of spectral norm 1 the one that goes down fastest. It comes
from products alone: for X of spectral norm at most 1,

    A = X X^T,    X <- a X + (b A + c A^2) X           maps every singular value s to a s + b s^3 + c s^5

and leaves U and V as they are. The coefficients are chosen for a steep slope at 0, so that five rounds lift small
singular values quickly; they do not converge to 1, but end between 0.68 and 1.16 from 0.005 on, which serves as well.

A matrix (rows, columns) of that kind has a root mean square of about 1 / sqrt(max(rows, columns)). The factor s makes
of it

    "match_rms_adamw"  0.2 sqrt(max(rows, columns))    0.2, about AdamW's: one learning rate and decay suit both
    "original"         sqrt(max(1, rows / columns))    as first published, with a learning rate of its own

Embeddings, head, norms and biases go by AdamW at lr * adamw_lr_ratio, as published.

Sources: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", kellerjordan.github.io/posts/muon,
2024; Liu et al., "Muon is Scalable for LLM Training", arXiv:2502.16982, section 2.2, for the factor 0.2.

Numerics. The iteration runs in the gradient's dtype, float32 or wider; torch.optim.Muon rounds it to bfloat16.
"""

from dataclasses import dataclass
from math import inf, sqrt
from typing import Any, ClassVar

from xplm.errors import RequestError
from xplm.namespace import array_namespace
from xplm.params import ParamSpec
from xplm.train.optimizers import adam
from xplm.train.optimizers.adamw import adamw_rule
from xplm.train.optimizers.optimizer import Optimizer, require_between, weight_decay
from xplm.typing import Array, Params


@dataclass(frozen=True)
class MuonOptions:
    momentum: float = 0.95  # share of the old buffer that stays, in [0, 1)
    nesterov: bool = True
    ns_steps: int = 5  # rounds of the iteration
    adjust_lr: str = "match_rms_adamw"  # or "original": the factor s
    weight_decay: float = 0.1  # share of a weight taken off at a learning rate of 1
    adamw_lr_ratio: float = 1.0  # AdamW's learning rate over the matrices'
    beta1: float = 0.9  # AdamW's
    beta2: float = 0.95  # AdamW's
    eps: float = 1e-8  # AdamW's

    COEFFICIENTS: ClassVar = (3.4445, -4.7750, 2.0315)  # a, b and c, as published
    NORM_EPS: ClassVar = 1e-7  # the least norm that a matrix is divided by

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not isinstance(self.nesterov, bool):
            raise RequestError(f"nesterov is true or false; got {self.nesterov!r}")
        require_between(self, 0.0, 1.0, "momentum", "beta1", "beta2")
        require_between(self, 0.0, inf, "weight_decay", "adamw_lr_ratio", "eps")
        if not isinstance(self.ns_steps, int) or not 1 <= self.ns_steps < 100:
            raise RequestError(f"ns_steps must be an integer from 1 to 99; got {self.ns_steps!r}")
        if self.adjust_lr not in ("match_rms_adamw", "original"):
            raise RequestError(
                f'adjust_lr must be "match_rms_adamw" or "original"; got {self.adjust_lr!r}'
            )

    def adjustment(self, shape: tuple[int, ...]) -> float:
        """The factor s of a matrix."""
        rows, columns = shape
        if self.adjust_lr == "original":
            return sqrt(max(1.0, rows / columns))
        return 0.2 * sqrt(max(rows, columns))


def make_moments(param: Array, spec: ParamSpec, options: MuonOptions) -> Params:
    """A momentum buffer for a block's matrix, AdamW's two moments for the rest."""
    if spec.is_hidden_matrix:
        return {"momentum_buffer": array_namespace(param).zeros_like(param)}
    return adam.make_moments(param, spec, options)


def newton_schulz(x: Array, *, steps: int) -> Array:
    """U S' V^T with S' near 1, for x = U S V^T.   x (rows, columns) wide  ->  the same shape and dtype"""
    xp = array_namespace(x)
    a, b, c = MuonOptions.COEFFICIENTS
    is_tall = x.shape[0] > x.shape[1]
    x = x.T if is_tall else x  # the smaller of X X^T and X^T X

    norm = xp.sqrt(xp.sum(x * x))  # Frobenius: the spectral norm is at most as large
    x = x / xp.maximum(norm, MuonOptions.NORM_EPS)
    for _ in range(steps):
        A = x @ x.T
        x = a * x + (b * A + c * (A @ A)) @ x
    return x.T if is_tall else x


def muon_rule(
    param: Array,
    grad: Array,
    moments: Params,
    *,
    spec: ParamSpec,
    step: int,
    lr: float,
    options: MuonOptions,
) -> tuple[Array, Params]:
    """One tensor's step."""
    if not spec.is_hidden_matrix:
        rest: dict[str, Any] = {"spec": spec, "step": step, "options": options}
        return adamw_rule(param, grad, moments, lr=lr * options.adamw_lr_ratio, **rest)

    buffer = _mix(moments["momentum_buffer"], grad, options.momentum)
    direction = _mix(buffer, grad, options.momentum) if options.nesterov else buffer
    size = lr * options.adjustment(param.shape)

    taken = size * newton_schulz(direction, steps=options.ns_steps)
    param = (1.0 - lr * weight_decay(spec, options)) * param - taken
    return param, {"momentum_buffer": buffer}


def _mix(old: Array, new: Array, old_share: float) -> Array:
    return old_share * old + (1.0 - old_share) * new


MUON = Optimizer(MuonOptions, make_moments, muon_rule)
