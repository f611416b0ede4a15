"""Attention in balls; the formulas and letters are those of `xplm.kernels.attention`."""

from typing import NamedTuple

import numpy as np

from xplm.numerics.parity.bounds import Arithmetic, Ball, exact, may_round, wide_of
from xplm.numerics.parity.expected import Args, Expected, Options, island
from xplm.numerics.parity.softmax_bounds import probs_from_lse, softmax


class _Read(NamedTuple):
    """The arguments as balls, with the query heads that read one key/value head side by side."""

    w: Arithmetic  # of the products
    q: Ball  # (B, K, G, T, D)
    k: Ball  # (B, K, 1, S, D)
    v: Ball  # (B, K, 1, S, D)
    visible: np.ndarray  # (B or 1, 1, 1, T, S) bool
    scores: Ball  # (B, K, G, T, S), capped
    slope: Ball | None  # likewise, of the cap at the scores; None without one
    sinks: Ball | None  # (K, G, 1, 1)


def visible_keys(
    T: int, S: int, start: int, window: int | None, first: np.ndarray | None
) -> np.ndarray:
    """Slot s is seen by the query in slot t = start + row if first <= s <= t and s > t - window: (B or 1, T, S)."""
    query, key = start + np.arange(T)[:, None], np.arange(S)[None, :]
    seen = (key <= query) & (key > query - (S + T + start if window is None else window))
    return seen[None] if first is None else seen[None] & (key[None] >= first[:, :, None])


def _read(args: Args, options: Options) -> _Read:
    q, k, v, first, sinks = (*args, None, None)[:5]
    w = Arithmetic(wide_of(q.dtype))
    kw, vw = w.stored(exact(k)), w.stored(exact(v))
    return _read_balls(w, exact(q), kw, vw, first, sinks, options)


def _read_balls(
    w: Arithmetic,
    q: Ball,
    k: Ball,
    v: Ball,
    first: np.ndarray | None,
    sinks: np.ndarray | None,
    options: Options,
) -> _Read:
    (B, H, T, D), (_, K, S, _) = q.mid.shape, k.mid.shape
    qs = q.map(lambda a: np.reshape(a, (B, K, H // K, T, D)))
    ks, vs = (ball.map(lambda b: b[:, :, None]) for ball in (k, v))
    visible = visible_keys(T, S, options["start"], options.get("window"), first)[:, None, None]
    scaled = w.times(qs, w.scalar(options["scale"]))
    scores = w.matmul(scaled, ks.map(_transposed))
    slope = None
    if options.get("cap") is not None:
        cap = w.scalar(options["cap"])
        scores = w.times(cap, w.tanh(w.over(scores, cap)))
        ratio = w.over(scores, cap)  # a kernel may have it so, or as the tanh that it is
        slope = w.minus(w.scalar(1.0), w.times(ratio, ratio))
    logits = None
    if sinks is not None:
        logits = w.stored(exact(sinks)).map(lambda a: np.reshape(a, (K, H // K, 1, 1)))
    return _Read(w, qs, ks, vs, visible, scores, slope, logits)


def attention_fwd(args: Args, options: Options) -> Expected:
    """y (B, H, T, D)."""
    read = _read(args, options)
    return Expected(_attend(read, Arithmetic(island(options, args[0]))), args[0].dtype)


def attend_balls(
    q: Ball,
    k: Ball,
    v: Ball,
    first: np.ndarray | None,
    sinks: np.ndarray | None,
    options: Options,
) -> Ball:
    """y (B, H, T, D) of operands that are themselves off, all in the dtype of the softmax, `options["island"]`."""
    w = Arithmetic(options["island"])
    return _attend(_read_balls(w, q, k, v, first, sinks, options), w)


def _softmax(read: _Read, narrow: Arithmetic, last: Arithmetic | None = None) -> tuple[Ball, Ball]:
    """The weights of the keys, and the log-sum-exp, which holds the sinks."""
    if read.sinks is None:
        return softmax(narrow, read.scores, read.visible, last=last)
    shape = (*read.scores.mid.shape[:-1], 1)
    column = read.sinks.map(lambda a: np.broadcast_to(a, shape))
    both = zip(read.scores, column, strict=True)
    scores = Ball(*(np.concatenate(pair, axis=-1) for pair in both))
    seen = np.concatenate([read.visible, np.ones((*read.visible.shape[:-1], 1), bool)], axis=-1)
    probs, lse = softmax(narrow, scores, seen, last=last)
    return probs.map(lambda a: a[..., :-1]), lse


def _attend(read: _Read, narrow: Arithmetic) -> Ball:
    probs, _ = _softmax(read, narrow)
    B, K, G, T, _ = read.q.mid.shape
    return read.w.matmul(probs, read.v).map(lambda a: np.reshape(a, (B, K * G, T, -1)))


def attention_bwd(dy: np.ndarray, args: Args, options: Options) -> list[Expected | None]:
    """dq (B, H, T, D); dk and dv (B, K, S, D); dsinks (H,)."""
    q, k, v = args[:3]
    read = _read(args, options)
    w = read.w
    narrow = Arithmetic(island(options, q))
    kept = Arithmetic(wide_of(narrow.dtype))
    probs, lse = _softmax(read, narrow, last=kept)
    y = may_round(w.matmul(probs, read.v), q.dtype)
    dyw = w.stored(exact(dy)).map(lambda a: np.reshape(a, y.mid.shape))
    P = probs_from_lse(w, read.scores, lse, read.visible)

    dv = w.sum(w.matmul(P.map(_transposed), dyw), 2)
    dP = w.matmul(dyw, read.v.map(_transposed))
    delta = w.sum(w.times(dyw, y), -1, keepdims=True)
    dS = w.times(w.times(P, w.minus(dP, delta)), w.scalar(options["scale"]))
    if read.slope is not None:
        dS = w.times(dS, read.slope)
    dq = w.matmul(dS, read.k).map(lambda a: np.reshape(a, q.shape))
    dk = w.sum(w.matmul(dS.map(_transposed), read.q), 2)
    gradients = [Expected(dq, q.dtype), Expected(dk, k.dtype), Expected(dv, v.dtype)]
    return [*gradients, None, _sinks_bwd(read, lse, delta)]


def _sinks_bwd(read: _Read, lse: Ball, delta: Ball) -> Expected | None:
    if read.sinks is None:
        return None
    w = read.w
    p = w.exp(w.minus(read.sinks, lse))  # (B, K, G, T, 1)
    total = w.sum(w.times(p, delta), (0, 3, 4))  # (K, G)
    return Expected(total.map(np.ravel)._replace(mid=-np.ravel(total.mid)), w.dtype)


def _transposed(a: np.ndarray) -> np.ndarray:
    return np.swapaxes(a, -1, -2)
