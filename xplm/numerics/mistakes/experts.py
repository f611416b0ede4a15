"""router, expert products and their gates: sums that are not divided, weights that come too early, rows mixed up."""

from collections.abc import Iterator, Sequence

import numpy as np

from xplm.numerics.mistakes.chain import Chain, Values, flip, mistake, total


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / total(e)


def _of_chosen(e: Values, x: np.ndarray) -> np.ndarray:
    return np.take_along_axis(x, e.chosen, axis=1)


def _to_all(e: Values, x: np.ndarray) -> np.ndarray:
    """The chosen's numbers at their places among all, 0 elsewhere."""
    every = np.zeros_like(e.p)
    np.put_along_axis(every, e.chosen, x, axis=1)
    return every


def _is_softmax(e: Values) -> bool:
    return e.scores == "softmax"


ROUTER = Chain(
    arguments=("logits", "chosen"),
    gradients=("logits",),
    forward={
        "p": lambda e: _softmax(e.logits) if _is_softmax(e) else _sigmoid(e.logits),
        "s": lambda e: _of_chosen(e, e.p),
        "total": lambda e: total(e.s) if e.is_normalised else 1.0,
        "y": lambda e: e.factor * e.s / e.total,
    },
    backward={
        "dw": lambda e: e.factor * e.dy,
        "through_total": lambda e: (
            total(e.dw * e.s / e.total) if e.is_normalised else np.zeros_like(e.dw[:, :1])
        ),
        "ds": lambda e: (e.dw - e.through_total) / e.total,
        "dp": lambda e: _to_all(e, e.ds),
        "dlogits": lambda e: (
            e.p * (e.dp - total(e.dp * e.p)) if _is_softmax(e) else e.p * (1 - e.p) * e.dp
        ),
    },
    mistakes=(
        mistake(
            "the sum that the weights are divided by is taken as a constant: ds lacks the path through it",
            through_total=lambda e: np.zeros_like(e.dw[:, :1]),
        ),
        mistake(
            "ds is not divided by the sum of the chosen scores",
            ds=lambda e: e.dw - e.through_total,
        ),
        mistake(
            "softmax runs over all experts, so those that are not chosen have a gradient too: "
            "dlogits is cut to the chosen",
            dlogits=lambda e: (
                _to_all(e, _of_chosen(e, e.p * (e.dp - total(e.dp * e.p))))
                if _is_softmax(e)
                else e.p * (1 - e.p) * e.dp
            ),
        ),
        mistake(
            "dlogits lacks softmax's sum over all experts: p * (dp - sum dp p)",
            dlogits=lambda e: e.p * e.dp if _is_softmax(e) else e.p * (1 - e.p) * e.dp,
        ),
        mistake(
            "the derivative of sigmoid is p (1 - p)",
            dlogits=lambda e: e.p * (e.dp - total(e.dp * e.p)) if _is_softmax(e) else e.p * e.dp,
        ),
        mistake(
            "dlogits stops at the scores: their derivative is missing",
            dlogits=lambda e: e.dp,
        ),
        mistake(
            "the gradients of the chosen are in the order of the experts; chosen[:, j] says whose the j-th is",
            dp=lambda e: _to_all(e, np.take_along_axis(e.ds, np.argsort(e.chosen, axis=1), axis=1)),
        ),
        mistake("the factor is missing on the way back", dw=lambda e: e.dy),
    ),
    forward_mistakes=(
        mistake("the weights are not divided by their sum", total=lambda e: 1.0),
        mistake(
            "softmax runs over the chosen; it runs over all experts, of whose scores some are taken",
            s=lambda e: _softmax(_of_chosen(e, e.logits)) if _is_softmax(e) else _of_chosen(e, e.p),
        ),
        mistake("the weights are not multiplied by the factor", y=lambda e: e.s / e.total),
        mistake(
            "the weights are divided by the sum over all experts",
            total=lambda e: total(e.p) if e.is_normalised else 1.0,
        ),
        mistake("the scores are sigmoids whatever `scores` says", p=lambda e: _sigmoid(e.logits)),
    ),
)


def _rows_of(counts: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """Each expert that has rows, and which they are."""
    ends = np.cumsum(counts)
    return ((e, slice(ends[e] - n, ends[e])) for e, n in enumerate(counts) if n)


def _apply(e: Values) -> np.ndarray:
    y = np.zeros((len(e.x), e.weight.shape[1]))
    for i, own in _rows_of(e.counts):
        y[own] = e.x[own] @ flip(e.weight[i]) + (0 if e.bias is None else e.bias[i])
    return y


def _rows_back(e: Values, weight: np.ndarray) -> np.ndarray:
    dx = np.zeros_like(e.x)
    for i, own in _rows_of(e.counts):
        dx[own] = e.dy[own] @ weight[i]
    return dx


def _matrices(e: Values, *, shares: bool = False) -> np.ndarray:
    found = np.zeros_like(e.weight)
    for i, own in _rows_of(e.counts):
        found[i] = flip(e.dy[own]) @ e.x[own] / (len(e.x[own]) if shares else 1)
    return found


def _biases(e: Values, *, shares: bool = False) -> np.ndarray:
    found = np.zeros(e.weight.shape[:2])
    for i, own in _rows_of(e.counts):
        found[i] = e.dy[own].sum(0) / (len(e.x[own]) if shares else 1)
    return found


EXPERT_LINEAR = Chain(
    arguments=("x", "weight", "bias"),
    gradients=("x", "weight", "bias"),
    forward={"y": _apply},
    backward={
        "dx": lambda e: _rows_back(e, e.weight),
        "dweight": _matrices,
        "dbias": _biases,
    },
    mistakes=(
        mistake(
            "dweight is averaged over an expert's rows, and the loss has averaged already: it is the sum",
            dweight=lambda e: _matrices(e, shares=True),
        ),
        mistake(
            "dbias is averaged over an expert's rows, and the loss has averaged already: it is the sum",
            dbias=lambda e: _biases(e, shares=True),
        ),
        mistake(
            "every expert gets the gradient of all rows: cut dy and x into each expert's",
            dweight=lambda e: np.stack([flip(e.dy) @ e.x] * len(e.counts)),
            dbias=lambda e: np.stack([e.dy.sum(0)] * len(e.counts)),
        ),
        mistake(
            "dx goes through the weight of the next expert: rows are sorted by expert",
            dx=lambda e: _rows_back(e, np.roll(e.weight, -1, 0)),
        ),
        mistake(
            "dx goes through the first expert's weight alone",
            dx=lambda e: e.dy @ e.weight[0],
        ),
    ),
    forward_mistakes=(
        mistake(
            "the biases are not added",
            y=lambda e: _apply(e) - (0 if e.bias is None else np.repeat(e.bias, e.counts, 0)),
        ),
        mistake("all rows go to the first expert", y=lambda e: e.x @ flip(e.weight[0])),
    ),
    matrices=("weight",),
)


def _weights(e: Values) -> np.ndarray:
    return np.ones(e.places.shape) if e.weights is None else e.weights


def _scattered(e: Values, terms: np.ndarray) -> np.ndarray:
    """Each token's (N, k, C) at its rows (N k, C)."""
    rows = np.zeros_like(e.rows)
    rows[e.places] = terms
    return rows


EXPERT_SUM = Chain(
    arguments=("rows", "places", "weights"),
    gradients=("rows", "weights"),
    forward={"y": lambda e: (e.rows[e.places] * _weights(e)[:, :, None]).sum(1)},
    backward={
        "drows": lambda e: _scattered(e, e.dy[:, None, :] * _weights(e)[:, :, None]),
        "dweights": lambda e: (e.rows[e.places] * e.dy[:, None, :]).sum(2),
    },
    mistakes=(
        mistake(
            "drows is not multiplied by the weights",
            drows=lambda e: _scattered(e, np.repeat(e.dy[:, None, :], e.places.shape[1], 1)),
        ),
        mistake(
            "dweights is averaged over the features: it is the sum of rows * dy",
            dweights=lambda e: (e.rows[e.places] * e.dy[:, None, :]).mean(2),
        ),
        mistake(
            "dweights lacks dy: it is the sum of rows * dy",
            dweights=lambda e: e.rows[e.places].sum(2),
        ),
        mistake(
            "drows is in the order of the tokens: row places[n, j] is the j-th of token n",
            drows=lambda e: (e.dy[:, None, :] * _weights(e)[:, :, None]).reshape(e.rows.shape),
        ),
        mistake(
            "dweights takes rows in the order of the tokens: row places[n, j] is the j-th of token n",
            dweights=lambda e: (e.rows.reshape(*e.places.shape, -1) * e.dy[:, None, :]).sum(2),
        ),
    ),
    forward_mistakes=(
        mistake("the rows are added without their weights", y=lambda e: e.rows[e.places].sum(1)),
        mistake(
            "rows are taken in the order of the tokens: row places[n, j] is the j-th of token n",
            y=lambda e: (e.rows.reshape(*e.places.shape, -1) * _weights(e)[:, :, None]).sum(1),
        ),
    ),
)

CLAMPED_SWIGLU = Chain(
    arguments=("gate", "up"),
    gradients=("gate", "up"),
    forward={
        "g": lambda e: np.minimum(e.gate, e.limit),
        "u": lambda e: np.clip(e.up, -e.limit, e.limit),
        "s": lambda e: _sigmoid(e.alpha * e.g),
        "y": lambda e: (e.u + 1) * e.g * e.s,
    },
    backward={
        "passes_gate": lambda e: e.gate <= e.limit,
        "passes_up": lambda e: np.abs(e.up) <= e.limit,
        "slope": lambda e: e.s * (1 + e.alpha * e.g * (1 - e.s)),
        "dgate": lambda e: e.passes_gate * e.dy * (e.u + 1) * e.slope,
        "dup": lambda e: e.passes_up * e.dy * e.g * e.s,
    },
    mistakes=(
        mistake(
            "dgate passes a gate that is clamped: it is 0 there",
            passes_gate=lambda e: np.ones_like(e.gate),
        ),
        mistake(
            "dup passes an up that is clamped: it is 0 there",
            passes_up=lambda e: np.ones_like(e.up),
        ),
        mistake(
            "the slope lacks alpha: s + alpha g s (1 - s)",
            slope=lambda e: e.s * (1 + e.g * (1 - e.s)),
        ),
        mistake(
            "the slope lacks the derivative of its sigmoid: s + alpha g s (1 - s)",
            slope=lambda e: e.s,
        ),
        mistake(
            "the slope lacks its first term: s + alpha g s (1 - s)",
            slope=lambda e: e.alpha * e.g * e.s * (1 - e.s),
        ),
        mistake(
            "dgate is multiplied by u where u + 1 belongs",
            dgate=lambda e: e.passes_gate * e.dy * e.u * e.slope,
        ),
        mistake(
            "dup has sigmoid(alpha g) where g sigmoid(alpha g) belongs",
            dup=lambda e: e.passes_up * e.dy * e.s,
        ),
        mistake(
            "a gate below -limit has a gradient: gate is clamped from above alone",
            passes_gate=lambda e: np.abs(e.gate) <= e.limit,
        ),
    ),
    forward_mistakes=(
        mistake("up lacks its 1: (u + 1) g s", y=lambda e: e.u * e.g * e.s),
        mistake("gate is not clamped", g=lambda e: e.gate),
        mistake("up is not clamped", u=lambda e: e.up),
        mistake("gate is clamped from below too", g=lambda e: np.clip(e.gate, -e.limit, e.limit)),
        mistake("up is clamped from above alone", u=lambda e: np.minimum(e.up, e.limit)),
        mistake("sigmoid lacks alpha", s=lambda e: _sigmoid(e.g)),
    ),
    positions={"gate": 1, "up": 1},
)


def _over_row(e: Values, x: np.ndarray) -> np.ndarray:
    return total(x) if e.gate.shape[-1] != e.x.shape[-1] else x


SIGMOID_GATE = Chain(
    arguments=("gate", "x"),
    gradients=("gate", "x"),
    forward={"s": lambda e: _sigmoid(e.gate), "y": lambda e: e.s * e.x},
    backward={
        "slope": lambda e: e.s * (1 - e.s),
        "dgate": lambda e: e.slope * _over_row(e, e.dy * e.x),
        "dx": lambda e: e.dy * e.s,
    },
    mistakes=(
        mistake("sigmoid' lacks its s: it is s (1 - s)", slope=lambda e: 1 - e.s),
        mistake("sigmoid' lacks its 1 - s: it is s (1 - s)", slope=lambda e: e.s),
        mistake(
            "dgate is multiplied by y where x belongs",
            dgate=lambda e: e.slope * _over_row(e, e.dy * e.y),
        ),
        mistake("dgate lacks x", dgate=lambda e: e.slope * _over_row(e, e.dy * np.ones_like(e.x))),
        mistake("dx is multiplied by gate where sigmoid(gate) belongs", dx=lambda e: e.dy * e.gate),
        mistake("dx is not multiplied by sigmoid(gate)", dx=lambda e: e.dy),
    ),
    forward_mistakes=(
        mistake("it gates by silu(gate)", y=lambda e: e.gate * e.s * e.x),
        mistake(
            "gate and x are swapped: the first argument goes through the sigmoid",
            y=lambda e: e.gate * _sigmoid(e.x),
        ),
    ),
    positions={"gate": 1, "x": 1},
)
