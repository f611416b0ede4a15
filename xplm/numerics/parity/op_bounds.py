"""Every op once more, in balls: what it is by definition, and how far rounding may take it from there.

Nothing here calls a kernel. Each function is the op's formula as its file in `xplm.kernels` states it, carried out in
`Arithmetic` of the format that the policy gives to that step: products in the wide dtype, statistics and softmax in
their island. Together with the centre comes the radius, so that a bound cannot be forgotten when a formula changes.

The kernels it judges are free in what a formula leaves open: the order of sums, and whether an intermediate that the
reference stores in a narrow format is stored at all (`may_round` holds both).
"""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from xplm.numerics.parity.attention_bounds import attention_bwd, attention_fwd
from xplm.numerics.parity.bounds import (
    FUNCTION_ULPS,
    Arithmetic,
    Ball,
    exact,
    may_round,
    operand,
    where,
    wide_of,
)
from xplm.numerics.parity.expected import Args, Expected, Options, island, rows
from xplm.numerics.parity.expert_bounds import (
    clamped_swiglu_bwd,
    clamped_swiglu_fwd,
    expert_linear_bwd,
    expert_linear_fwd,
    expert_sum_bwd,
    expert_sum_fwd,
    router_bwd,
    router_fwd,
    sigmoid_gate_bwd,
    sigmoid_gate_fwd,
)
from xplm.numerics.parity.loss_bounds import (
    cross_entropy_bwd,
    cross_entropy_fwd,
    linear_cross_entropy_bwd,
    linear_cross_entropy_fwd,
)
from xplm.numerics.parity.softmax_bounds import softmax

Forward: TypeAlias = Callable[[Args, Options], Expected]  # (arguments, options) -> y
Backward: TypeAlias = Callable[[np.ndarray, Args, Options], list[Expected | None]]
"""(dy, the forward's arguments, its options) -> a gradient an argument, None for those that have none."""


class OpBounds(NamedTuple):
    """An op's definition, both ways."""

    forward: Forward
    backward: Backward


def _linear_fwd(args: Args, options: Options) -> Expected:
    x, weight, bias = (*args, None)[:3]
    w = Arithmetic(wide_of(x.dtype))
    y = w.matmul(operand(x), w.stored(operand(weight)).map(np.transpose))
    if bias is not None:
        y = w.plus(y, w.stored(exact(bias)))
    return Expected(y, x.dtype)


def _linear_bwd(dy: np.ndarray, args: Args, options: Options) -> list[Expected | None]:
    x, weight, bias = (*args, None)[:3]
    w = Arithmetic(wide_of(dy.dtype))
    dx = w.matmul(operand(dy), w.stored(operand(weight)))
    dweight = w.matmul(operand(rows(dy)).map(np.transpose), w.stored(operand(rows(x))))
    dbias = None if bias is None else Expected(w.sum(exact(rows(dy)), 0), w.dtype)
    return [Expected(dx, x.dtype), Expected(dweight, w.dtype), dbias]


def _rows_of(weight: np.ndarray, x: Ball) -> Ball:
    """x (..., C) as rows of a weight's shape."""
    return x.map(lambda a: np.reshape(a, (-1, *weight.shape)))


def _rstd(w: Arithmetic, centred: Ball, eps: float) -> Ball:
    mean_square = w.mean(w.times(centred, centred))
    return w.over(w.scalar(1.0), w.root(w.plus(mean_square, w.scalar(eps))))


def _rms_norm_fwd(args: Args, options: Options) -> Expected:
    x, weight = args
    w = Arithmetic(island(options, x))
    xw = w.stored(exact(x))
    n = may_round(w.times(xw, _rstd(w, xw, options["eps"])), x.dtype)
    y = Arithmetic(wide_of(x.dtype)).times(n, may_round(exact(weight), x.dtype))
    return Expected(y, x.dtype)


def _rms_norm_bwd(dy: np.ndarray, args: Args, options: Options) -> list[Expected | None]:
    x, weight = args
    statistics = Arithmetic(island(options, x))
    w = Arithmetic(wide_of(statistics.dtype))
    s = statistics.stored(_rstd(statistics, statistics.stored(exact(x)), options["eps"]))
    n = w.times(w.stored(exact(x)), s)
    dyw = w.stored(exact(dy))
    dweight = w.sum(_rows_of(weight, w.times(dyw, n)), 0)
    dn = w.times(dyw, w.stored(exact(weight)))
    dx = w.times(s, w.minus(dn, w.times(n, w.mean(w.times(dn, n)))))
    return [Expected(dx, x.dtype), Expected(dweight, w.dtype)]


def _layer_norm_fwd(args: Args, options: Options) -> Expected:
    x, weight, bias = args
    w = Arithmetic(island(options, x))
    xw = w.stored(exact(x))
    centred = w.minus(xw, w.mean(xw))
    n = w.times(centred, _rstd(w, centred, options["eps"]))
    y = w.plus(w.times(n, w.stored(exact(weight))), w.stored(exact(bias)))
    return Expected(y, x.dtype)


def _layer_norm_bwd(dy: np.ndarray, args: Args, options: Options) -> list[Expected | None]:
    x, weight, bias = args
    statistics = Arithmetic(island(options, x))
    w = Arithmetic(wide_of(statistics.dtype))
    narrow = statistics.stored(exact(x))
    mean = statistics.stored(statistics.mean(narrow))
    s = statistics.stored(_rstd(statistics, statistics.minus(narrow, mean), options["eps"]))
    n = w.times(w.minus(w.stored(exact(x)), mean), s)
    dyw = w.stored(exact(dy))
    dweight = w.sum(_rows_of(weight, w.times(dyw, n)), 0)
    dbias = w.sum(_rows_of(bias, dyw), 0)
    dn = w.times(dyw, w.stored(exact(weight)))
    past_mean = w.minus(dn, w.mean(dn))
    dx = w.times(s, w.minus(past_mean, w.times(n, w.mean(w.times(dn, n)))))
    return [Expected(dx, x.dtype), Expected(dweight, w.dtype), Expected(dbias, w.dtype)]


def _rope(
    x: np.ndarray, cos: np.ndarray, sin: np.ndarray, options: Options, turn: float
) -> Expected:
    w = Arithmetic(cos.dtype)
    half = cos.shape[-1]
    order = np.arange(x.shape[-1])  # features as halves
    if options.get("pairs") == "neighbours":
        order[: 2 * half] = order[: 2 * half].reshape(half, 2).T.reshape(-1)
    xw = w.stored(exact(x)).map(lambda a: a[..., order])
    x1, x2 = xw.map(lambda a: a[..., :half]), xw.map(lambda a: a[..., half : 2 * half])
    x3 = xw.map(lambda a: a[..., 2 * half :])
    c, s = exact(cos), exact(turn * sin.astype(np.float64))
    y1 = w.minus(w.times(x1, c), w.times(x2, s))
    y2 = w.plus(w.times(x2, c), w.times(x1, s))
    parts = [np.concatenate(part, axis=-1) for part in zip(y1, y2, x3, strict=True)]
    return Expected(Ball(*parts).map(lambda a: a[..., np.argsort(order)]), x.dtype)


def _rope_fwd(args: Args, options: Options) -> Expected:
    x, cos, sin = args
    return _rope(x, cos, sin, options, 1.0)


def _rope_bwd(dy: np.ndarray, args: Args, options: Options) -> list[Expected | None]:
    _, cos, sin = args
    return [_rope(dy, cos, sin, options, -1.0), None, None]


def _softmax_fwd(args: Args, options: Options) -> Expected:
    x, visible = (*args, None)[:2]
    y, _ = softmax(Arithmetic(island(options, x)), exact(x), visible)
    return Expected(y, x.dtype)


def _softmax_bwd(dy: np.ndarray, args: Args, options: Options) -> list[Expected | None]:
    x, visible = (*args, None)[:2]
    narrow = Arithmetic(island(options, x))
    y, _ = softmax(narrow, exact(x), visible)
    y = narrow.stored(y)
    w = Arithmetic(wide_of(narrow.dtype))
    dyw = w.stored(exact(dy))
    dx = w.times(y, w.minus(dyw, w.sum(w.times(dyw, y), -1, keepdims=True)))
    return [Expected(dx, dy.dtype), None]


def _swiglu_fwd(args: Args, options: Options) -> Expected:
    gate, up = args
    w = Arithmetic(wide_of(gate.dtype))
    g = exact(gate)
    y = w.times(w.times(g, w.sigmoid(g)), w.stored(exact(up)))
    return Expected(y, gate.dtype)


def _swiglu_bwd(dy: np.ndarray, args: Args, options: Options) -> list[Expected | None]:
    gate, up = args
    w = Arithmetic(wide_of(gate.dtype))
    g, dyw = exact(gate), w.stored(exact(dy))
    s = w.sigmoid(g)
    one = w.scalar(1.0)
    slope = w.times(s, w.plus(one, w.times(g, w.minus(one, s))))
    dgate = w.times(w.times(dyw, w.stored(exact(up))), slope)
    dup = w.times(w.times(dyw, g), s)
    return [Expected(dgate, gate.dtype), Expected(dup, up.dtype)]


def _gelu_tanh(w: Arithmetic, x: Ball) -> Ball:
    cube = w.times(w.times(w.times(w.scalar(0.044715), x), x), x)
    return w.tanh(w.times(w.scalar(math.sqrt(2.0 / math.pi)), w.plus(x, cube)))


def gelu(w: Arithmetic, x: Ball) -> Ball:
    """The op, of a ball."""
    half = w.times(w.scalar(0.5), x)
    return w.times(half, w.plus(w.scalar(1.0), _gelu_tanh(w, x)))


def _gelu_fwd(args: Args, options: Options) -> Expected:
    (x,) = args
    return Expected(gelu(Arithmetic(wide_of(x.dtype)), exact(x)), x.dtype)


def _gelu_bwd(dy: np.ndarray, args: Args, options: Options) -> list[Expected | None]:
    (x,) = args
    w = Arithmetic(wide_of(x.dtype))
    xw, one, half = exact(x), w.scalar(1.0), w.scalar(0.5)
    t = _gelu_tanh(w, xw)
    square = w.times(w.times(w.scalar(3.0 * 0.044715), xw), xw)
    du = w.times(w.scalar(math.sqrt(2.0 / math.pi)), w.plus(one, square))
    rise = w.times(w.times(half, xw), w.times(w.minus(one, w.times(t, t)), du))
    slope = w.plus(w.times(half, w.plus(one, t)), rise)
    return [Expected(w.times(w.stored(exact(dy)), slope), x.dtype)]


CHEBYSHEV_ULPS = 11.0
"""Of the sum of c_k T_k(s) in `xplm.kernels.gelu_erf`, which is 1 to 1.29, and of the three steps that follow it. Of
Clenshaw's recurrence 3 sum (k + 1) |b_k| = 13 u, three roundings a step, each multiplied by at most k + 1 on its way to
the sum; for the roundings of s 3 u times sum k^2 |c_k| = 1.7; 4 u for the rest."""

_erfc = np.vectorize(math.erfc, otypes=[float])


def _normal_share(w: Arithmetic, x: Ball) -> tuple[Ball, Ball]:
    """Phi(x) and exp(-x^2 / 2)."""
    t = w.times(Ball(np.abs(x.mid), x.rad), w.scalar(math.sqrt(0.5)))
    square = w.times(t, t)
    e = w.exp(Ball(-square.mid, square.rad))
    below = 0.5 * _erfc(t.mid)

    # exp(-t^2) moves by its argument's error; what it is multiplied by has a slope of log of at most 2 / sqrt(pi).
    share = np.expm1(square.rad) + 2.0 / math.sqrt(math.pi) * t.rad
    tail = w.rounded(below, below * share, FUNCTION_ULPS + CHEBYSHEV_ULPS)
    above = w.minus(w.scalar(1.0), tail)
    return Ball(*(np.where(x.mid < 0.0, a, b) for a, b in zip(tail, above, strict=True))), e


def gelu_erf(w: Arithmetic, x: Ball) -> Ball:
    """The op, of a ball."""
    return w.times(x, _normal_share(w, x)[0])


def _gelu_erf_fwd(args: Args, options: Options) -> Expected:
    (x,) = args
    return Expected(gelu_erf(Arithmetic(wide_of(x.dtype)), exact(x)), x.dtype)


def _gelu_erf_bwd(dy: np.ndarray, args: Args, options: Options) -> list[Expected | None]:
    (x,) = args
    w = Arithmetic(wide_of(x.dtype))
    share, e = _normal_share(w, exact(x))
    density = w.times(w.scalar(1.0 / math.sqrt(2.0 * math.pi)), e)
    slope = w.plus(share, w.times(exact(x), density))
    return [Expected(w.times(w.stored(exact(dy)), slope), x.dtype)]


def _relu_fwd(args: Args, options: Options) -> Expected:
    (x,) = args
    return Expected(exact(np.maximum(x.astype(np.float64), 0.0)), x.dtype)


def _relu_bwd(dy: np.ndarray, args: Args, options: Options) -> list[Expected | None]:
    (x,) = args
    return [Expected(where(x > 0, exact(dy), 0.0), x.dtype)]


def _relu2_fwd(args: Args, options: Options) -> Expected:
    (x,) = args
    r = exact(np.maximum(x.astype(np.float64), 0.0))
    return Expected(Arithmetic(wide_of(x.dtype)).times(r, r), x.dtype)


def _relu2_bwd(dy: np.ndarray, args: Args, options: Options) -> list[Expected | None]:
    (x,) = args
    w = Arithmetic(wide_of(x.dtype))
    slope = exact(2.0 * np.maximum(x.astype(np.float64), 0.0))
    return [Expected(w.times(w.stored(exact(dy)), slope), x.dtype)]


def _embedding_fwd(args: Args, options: Options) -> Expected:
    ids, weight = args
    return Expected(exact(weight[ids]), weight.dtype)


def _embedding_bwd(dy: np.ndarray, args: Args, options: Options) -> list[Expected | None]:
    ids, weight = args
    w = Arithmetic(wide_of(dy.dtype))
    terms = rows(dy).astype(np.float64)
    mid, size = np.zeros(weight.shape), np.zeros(weight.shape)
    np.add.at(mid, ids.reshape(-1), terms)
    np.add.at(size, ids.reshape(-1), np.abs(terms))
    times = int(np.max(np.bincount(ids.reshape(-1)), initial=1))
    return [None, Expected(Ball(mid, w.gamma(times) * size), w.dtype)]


def _keep(x: np.ndarray, keep: np.ndarray, rate: float) -> Expected:
    w = Arithmetic(wide_of(x.dtype))
    y = w.times(exact(x), w.scalar(1.0 / (1.0 - rate)))
    return Expected(where(keep, y, 0.0), x.dtype)


def _dropout_fwd(args: Args, options: Options) -> Expected:
    x, keep = args
    return _keep(x, keep, options["rate"])


def _dropout_bwd(dy: np.ndarray, args: Args, options: Options) -> list[Expected | None]:
    return [_keep(dy, args[1], options["rate"]), None]


OP_BOUNDS: dict[str, OpBounds] = {
    "embedding": OpBounds(_embedding_fwd, _embedding_bwd),
    "linear": OpBounds(_linear_fwd, _linear_bwd),
    "rms_norm": OpBounds(_rms_norm_fwd, _rms_norm_bwd),
    "layer_norm": OpBounds(_layer_norm_fwd, _layer_norm_bwd),
    "rope": OpBounds(_rope_fwd, _rope_bwd),
    "softmax": OpBounds(_softmax_fwd, _softmax_bwd),
    "attention": OpBounds(attention_fwd, attention_bwd),
    "swiglu": OpBounds(_swiglu_fwd, _swiglu_bwd),
    "gelu": OpBounds(_gelu_fwd, _gelu_bwd),
    "gelu_erf": OpBounds(_gelu_erf_fwd, _gelu_erf_bwd),
    "relu": OpBounds(_relu_fwd, _relu_bwd),
    "relu2": OpBounds(_relu2_fwd, _relu2_bwd),
    "clamped_swiglu": OpBounds(clamped_swiglu_fwd, clamped_swiglu_bwd),
    "sigmoid_gate": OpBounds(sigmoid_gate_fwd, sigmoid_gate_bwd),
    "router": OpBounds(router_fwd, router_bwd),
    "expert_linear": OpBounds(expert_linear_fwd, expert_linear_bwd),
    "expert_sum": OpBounds(expert_sum_fwd, expert_sum_bwd),
    "dropout": OpBounds(_dropout_fwd, _dropout_bwd),
    "cross_entropy": OpBounds(cross_entropy_fwd, cross_entropy_bwd),
    "linear_cross_entropy": OpBounds(linear_cross_entropy_fwd, linear_cross_entropy_bwd),
}
"""Every op's definition, by name."""
