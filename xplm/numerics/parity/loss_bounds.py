"""The losses in balls; the formulas are those of `xplm.kernels.cross_entropy` and `linear_cross_entropy`."""

import numpy as np

from xplm.numerics.parity.bounds import (
    Arithmetic,
    Ball,
    exact,
    may_round,
    operand,
    where,
    wide_of,
)
from xplm.numerics.parity.expected import Args, Expected, Options, island
from xplm.numerics.parity.softmax_bounds import probs_from_lse, softmax


def cross_entropy_fwd(args: Args, options: Options) -> Expected:
    """loss (N,)."""
    x, targets = args
    w = Arithmetic(island(options, x))
    return Expected(_loss(w, w.stored(exact(x)), targets, options), w.dtype)


def cross_entropy_bwd(dloss: np.ndarray, args: Args, options: Options) -> list[Expected | None]:
    """dx (N, V)."""
    x, targets = args
    dx = _dlogits(Arithmetic(island(options, x)), exact(x), dloss, targets, options)
    return [Expected(dx, x.dtype), None]


def linear_cross_entropy_fwd(args: Args, options: Options) -> Expected:
    """loss (N,)."""
    x, weight, targets, bias = (*args, None)[:4]
    w = Arithmetic(island(options, x))
    logits, _ = _logits(w, x, weight, bias, options)
    return Expected(_loss(w, logits, targets, options), w.dtype)


def linear_cross_entropy_bwd(
    dloss: np.ndarray, args: Args, options: Options
) -> list[Expected | None]:
    """dx (N, C), dweight (V, C) and dbias (V,)."""
    x, weight, targets, bias = (*args, None)[:4]
    narrow = Arithmetic(island(options, x))
    w = Arithmetic(wide_of(narrow.dtype))
    logits, slope = _logits(narrow, x, weight, bias, options)
    dlogits = narrow.stored(_dlogits(narrow, logits, dloss, targets, options))
    if slope is not None:
        dlogits = narrow.stored(w.times(dlogits, slope))
    dlogits = may_round(dlogits, x.dtype)
    dx = narrow.stored(w.matmul(dlogits, w.stored(operand(weight))))
    dweight = w.matmul(dlogits.map(np.transpose), narrow.stored(operand(x)))
    dbias = None if bias is None else Expected(w.sum(dlogits, 0), w.dtype)
    return [Expected(dx, x.dtype), Expected(dweight, w.dtype), None, dbias]


def _logits(
    narrow: Arithmetic,
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    options: Options,
) -> tuple[Ball, Ball | None]:
    """Logits (N, V), scaled and capped, and their derivative by what they were before that; None for 1."""
    w = Arithmetic(wide_of(narrow.dtype))
    table = w.stored(operand(weight)).map(np.transpose)
    logits = w.matmul(narrow.stored(operand(x)), table)
    if bias is not None:
        logits = w.plus(logits, w.stored(exact(bias)))
    logits = narrow.stored(logits)

    scale, cap = options.get("logit_scale", 1.0), options.get("logit_cap")
    if scale == 1.0 and cap is None:
        return logits, None
    factor = w.scalar(scale)
    if cap is None:
        return narrow.stored(w.times(logits, factor)), factor
    c, one = w.scalar(cap), w.scalar(1.0)
    capped = narrow.stored(w.times(w.tanh(w.over(w.times(logits, factor), c)), c))
    t = w.over(capped, c)
    return capped, w.times(w.minus(one, w.times(t, t)), factor)


def _loss(w: Arithmetic, x: Ball, targets: np.ndarray, options: Options) -> Ball:
    counted = targets != options["ignore_index"]
    smoothing, z = options.get("label_smoothing", 0.0), options.get("z_loss", 0.0)
    _, lse = softmax(w, x, None)
    lse = lse.map(lambda a: a[:, 0])
    chosen = np.arange(len(targets)), np.where(counted, targets, 0)
    target_logit = x.map(lambda a: a[chosen])

    loss = w.minus(lse, w.times(w.scalar(1.0 - smoothing), target_logit))
    if smoothing:
        mean = w.mean(x).map(lambda a: a[:, 0])
        loss = w.minus(loss, w.times(w.scalar(smoothing), mean))
    if z:
        loss = w.plus(loss, w.times(w.times(w.scalar(z), lse), lse))
    return where(counted, loss, 0.0)


def _dlogits(
    narrow: Arithmetic, x: Ball, dloss: np.ndarray, targets: np.ndarray, options: Options
) -> Ball:
    counted = (targets != options["ignore_index"])[:, None]
    smoothing, z = options.get("label_smoothing", 0.0), options.get("z_loss", 0.0)
    V = x.mid.shape[-1]
    _, lse = softmax(narrow, x, None)
    lse = narrow.stored(lse)
    w = Arithmetic(wide_of(dloss.dtype))

    p = probs_from_lse(w, x, lse, np.ones(x.mid.shape, bool))
    if z:
        p = w.times(p, w.plus(w.scalar(1.0), w.times(w.scalar(2.0 * z), lse)))
    hit = (np.arange(V)[None, :] == targets[:, None]).astype(np.float64)
    dx = w.minus(p, w.times(w.scalar(1.0 - smoothing), exact(hit)))
    if smoothing:
        dx = w.minus(dx, w.scalar(smoothing / V))
    return where(counted, w.times(dx, exact(dloss[:, None])), 0.0)
