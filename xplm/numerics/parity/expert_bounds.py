"""Router, expert products and their gates in balls."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from xplm.kernels.router import SMALLEST
from xplm.numerics.parity.bounds import Arithmetic, Ball, exact, operand, where, wide_of
from xplm.numerics.parity.expected import Args, Expected, Options, island
from xplm.numerics.parity.softmax_bounds import softmax


def router_fwd(args: Args, options: Options) -> Expected:
    """Scores of the chosen, divided by their sum where asked, times the factor."""
    logits, chosen = args
    w = Arithmetic(island(options, logits))
    of_chosen = _of_chosen(_scores(w, logits, options), chosen)
    if options["is_normalised"]:
        of_chosen = w.over(of_chosen, _total(w, of_chosen))
    return Expected(w.times(w.scalar(options["factor"]), of_chosen), logits.dtype)


def router_bwd(dw: np.ndarray, args: Args, options: Options) -> list[Expected | None]:
    """dlogits: through the division, from the chosen to all, through softmax or sigmoid."""
    logits, chosen = args
    narrow = Arithmetic(island(options, logits))
    p = narrow.stored(_scores(narrow, logits, options))
    w = Arithmetic(wide_of(narrow.dtype))
    dchosen = w.times(w.scalar(options["factor"]), w.stored(exact(dw)))
    if options["is_normalised"]:
        of_chosen = _of_chosen(p, chosen)
        total = _total(w, of_chosen)
        r = w.over(of_chosen, total)
        mean = w.sum(w.times(dchosen, r), -1, keepdims=True)
        dchosen = w.over(w.minus(dchosen, mean), total)
    dp = Ball(np.zeros(logits.shape), np.zeros(logits.shape))
    np.put_along_axis(dp.mid, chosen, dchosen.mid, axis=1)
    np.put_along_axis(dp.rad, chosen, dchosen.rad, axis=1)
    if options["scores"] == "softmax":
        slope = w.minus(dp, w.sum(w.times(dp, p), -1, keepdims=True))
    else:
        slope = w.times(w.minus(w.scalar(1.0), p), dp)
    return [Expected(w.times(p, slope), logits.dtype), None]


def expert_linear_fwd(args: Args, options: Options) -> Expected:
    """One product an expert."""
    x, weight, bias = (*args, None)[:3]
    w = Arithmetic(wide_of(x.dtype))
    parts = []
    for e, own in _rows_of(options["counts"]):
        y = w.matmul(operand(x[own]), w.stored(operand(weight[e])).map(np.transpose))
        parts.append(y if bias is None else w.plus(y, w.stored(exact(bias[e]))))
    return Expected(_stacked(np.concatenate, parts), x.dtype)


def expert_linear_bwd(dy: np.ndarray, args: Args, options: Options) -> list[Expected | None]:
    """dx by rows; dweight and dbias by expert, 0 for one without rows."""
    x, weight, bias = (*args, None)[:3]
    w = Arithmetic(wide_of(dy.dtype))
    dx = []
    dweight = [exact(np.zeros(matrix.shape)) for matrix in weight]
    dbias = [exact(np.zeros(len(matrix))) for matrix in weight]
    for e, own in _rows_of(options["counts"]):
        dx.append(w.matmul(operand(dy[own]), w.stored(operand(weight[e]))))
        dweight[e] = w.matmul(operand(dy[own]).map(np.transpose), w.stored(operand(x[own])))
        dbias[e] = w.sum(exact(dy[own]), 0)
    return [
        Expected(_stacked(np.concatenate, dx), x.dtype),
        Expected(_stacked(np.stack, dweight), w.dtype),
        None if bias is None else Expected(_stacked(np.stack, dbias), w.dtype),
    ]


def expert_sum_fwd(args: Args, options: Options) -> Expected:
    """Each token's rows, times their weights, added up."""
    rows, places, weights = (*args, None)[:3]
    w = Arithmetic(wide_of(rows.dtype))
    terms = w.stored(exact(rows[places]))
    if weights is not None:
        terms = w.times(terms, w.stored(exact(weights[:, :, None])))
    return Expected(w.sum(terms, 1), rows.dtype)


def expert_sum_bwd(dy: np.ndarray, args: Args, options: Options) -> list[Expected | None]:
    """drows: the token's dy times the weight; dweights: their products, added up."""
    rows, places, weights = (*args, None)[:3]
    w = Arithmetic(wide_of(dy.dtype))
    owner = np.argsort(places, axis=None)
    drows = w.stored(exact(dy[owner // places.shape[1]]))
    if weights is None:
        return [Expected(drows, rows.dtype), None, None]
    drows = w.times(drows, w.stored(exact(weights.reshape(-1)[owner, None])))
    products = w.times(w.stored(exact(rows[places])), w.stored(exact(dy[:, None, :])))
    return [Expected(drows, rows.dtype), None, Expected(w.sum(products, 2), weights.dtype)]


def clamped_swiglu_fwd(args: Args, options: Options) -> Expected:
    """(u + 1) g sigmoid(alpha g)."""
    gate, up = args
    w = Arithmetic(wide_of(gate.dtype))
    g, u, s, _ = _clamped(w, gate, up, options)
    return Expected(w.times(w.times(w.plus(u, w.scalar(1.0)), g), s), gate.dtype)


def clamped_swiglu_bwd(dy: np.ndarray, args: Args, options: Options) -> list[Expected | None]:
    """Both slopes, 0 where a branch is clamped."""
    gate, up = args
    w = Arithmetic(wide_of(gate.dtype))
    g, u, s, z = _clamped(w, gate, up, options)
    dyw, one, limit = w.stored(exact(dy)), w.scalar(1.0), options["limit"]
    slope = w.times(s, w.plus(one, w.times(z, w.minus(one, s))))
    dgate = w.times(w.times(dyw, w.plus(u, one)), slope)
    dup = w.times(w.times(dyw, g), s)
    return [
        Expected(where(gate.astype(np.float64) <= limit, dgate, 0.0), gate.dtype),
        Expected(where(np.abs(up.astype(np.float64)) <= limit, dup, 0.0), up.dtype),
    ]


def sigmoid_gate_fwd(args: Args, options: Options) -> Expected:
    """sigmoid(gate) x."""
    gate, x = args
    w = Arithmetic(wide_of(x.dtype))
    return Expected(w.times(w.sigmoid(w.stored(exact(gate))), w.stored(exact(x))), x.dtype)


def sigmoid_gate_bwd(dy: np.ndarray, args: Args, options: Options) -> list[Expected | None]:
    """dgate, summed over rows that share a gate, and dx."""
    gate, x = args
    w = Arithmetic(wide_of(x.dtype))
    dyw, s = w.stored(exact(dy)), w.sigmoid(w.stored(exact(gate)))
    product = w.times(dyw, w.stored(exact(x)))
    if gate.shape[-1] != x.shape[-1]:
        product = w.sum(product, -1, keepdims=True)
    dgate = w.times(w.times(s, w.minus(w.scalar(1.0), s)), product)
    return [Expected(dgate, gate.dtype), Expected(w.times(dyw, s), x.dtype)]


def _scores(w: Arithmetic, logits: np.ndarray, options: Options) -> Ball:
    z = w.stored(exact(logits))
    return softmax(w, z, None)[0] if options["scores"] == "softmax" else w.sigmoid(z)


def _of_chosen(p: Ball, chosen: np.ndarray) -> Ball:
    return p.map(lambda a: np.take_along_axis(a, chosen, axis=1))


def _total(w: Arithmetic, of_chosen: Ball) -> Ball:
    return w.plus(w.sum(of_chosen, -1, keepdims=True), w.scalar(SMALLEST))


def _clamped(
    w: Arithmetic, gate: np.ndarray, up: np.ndarray, options: Options
) -> tuple[Ball, Ball, Ball, Ball]:
    """g, u, sigmoid(alpha g) and alpha g."""
    limit = w.scalar(options["limit"])
    g, u = w.stored(exact(gate)), w.stored(exact(up))
    g = _either(g.mid <= limit.mid, g, limit)
    u = _either(u.mid <= limit.mid, u, limit)
    u = _either(u.mid >= -limit.mid, u, Ball(-limit.mid, limit.rad))
    z = w.times(w.scalar(options["alpha"]), g)
    return g, u, w.sigmoid(z), z


def _either(condition: np.ndarray, yes: Ball, no: Ball) -> Ball:
    return Ball(np.where(condition, yes.mid, no.mid), np.where(condition, yes.rad, no.rad))


def _stacked(join: Callable[..., np.ndarray], parts: list[Ball]) -> Ball:
    return Ball(join([p.mid for p in parts]), join([p.rad for p in parts]))


def _rows_of(counts: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """Each expert that has rows, and which they are."""
    ends = np.cumsum(counts)
    return ((e, slice(ends[e] - n, ends[e])) for e, n in enumerate(counts) if n)
