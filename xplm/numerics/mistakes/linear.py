"""linear and embedding: sums over rows that turn into means, and rows that overwrite one another."""

import numpy as np

from xplm.numerics.mistakes.chain import Chain, Values, bias_or_zero, flip, mistake, rows

LINEAR = Chain(
    arguments=("x", "weight", "bias"),
    gradients=("x", "weight", "bias"),
    forward={"y": lambda e: e.x @ flip(e.weight) + bias_or_zero(e)},
    backward={
        "rows": lambda e: rows(e.x),
        "drows": lambda e: rows(e.dy),
        "dx": lambda e: e.dy @ e.weight,
        "dweight": lambda e: flip(e.drows) @ e.rows,
        "dbias": lambda e: e.drows.sum(0),
    },
    mistakes=(
        mistake(
            "dbias is averaged over the rows, and the loss has averaged already: "
            "a bias gradient is the sum",
            dbias=lambda e: e.drows.mean(0),
        ),
        mistake(
            "dbias is averaged twice over the rows: a bias gradient is their sum",
            dbias=lambda e: e.drows.mean(0) / len(e.drows),
        ),
        mistake(
            "dweight is averaged over the rows, and the loss has averaged already: it is the sum",
            dweight=lambda e: flip(e.drows) @ e.rows / len(e.drows),
        ),
        mistake(
            "dweight and dbias are averaged over the rows, and the loss has averaged already: "
            "both are sums",
            dweight=lambda e: flip(e.drows) @ e.rows / len(e.drows),
            dbias=lambda e: e.drows.mean(0),
        ),
        mistake(
            "dweight and dbias are divided by the first axis, the batch: both are sums",
            dweight=lambda e: flip(e.drows) @ e.rows / len(e.x),
            dbias=lambda e: e.drows.sum(0) / len(e.x),
        ),
        mistake(
            "dweight takes the last row alone: += became =",
            dweight=lambda e: flip(e.drows[-1:]) @ e.rows[-1:],
        ),
        mistake(
            "dbias takes the last row alone: += became =",
            dbias=lambda e: e.drows[-1],
        ),
        mistake(
            "dx takes the weight the wrong way round: y = x @ W asks for dy @ W^T, and y = x @ W^T for "
            "dy @ W",
            dx=lambda e: e.dy @ flip(e.weight) if _is_square(e) else e.dy @ e.weight,
        ),
        mistake(
            "dweight is transposed: it is stored as the weight is",
            dweight=lambda e: flip(e.rows) @ e.drows if _is_square(e) else flip(e.drows) @ e.rows,
        ),
        mistake(
            "dweight is made of y, not of x",
            dweight=lambda e: (
                flip(e.drows) @ rows(e.y) if _is_square(e) else flip(e.drows) @ e.rows
            ),
        ),
    ),
    forward_mistakes=(
        mistake("the bias is not added", y=lambda e: e.x @ flip(e.weight)),
        mistake("the bias is subtracted", y=lambda e: e.x @ flip(e.weight) - bias_or_zero(e)),
    ),
    matrices=("weight",),
    positions={"x": 1},
)


def _is_square(e: Values) -> bool:
    return e.weight.shape[0] == e.weight.shape[1]


def _scatter(e: Values, *, weights: np.ndarray | None = None) -> np.ndarray:
    """Rows of dy added up by id, each times its weight."""
    table = np.zeros_like(e.weight)
    dy = rows(e.dy)
    np.add.at(table, e.ids.reshape(-1), dy if weights is None else dy * weights[:, None])
    return table


def _keep_one(e: Values, order: slice) -> np.ndarray:
    """Rows of dy assigned by id, in this order, so that the last stays."""
    table = np.zeros_like(e.weight)
    for i, row in zip(e.ids.reshape(-1)[order], rows(e.dy)[order], strict=True):
        table[i] = row
    return table


def _counts(e: Values) -> np.ndarray:
    """How often each position's id occurs."""
    ids = e.ids.reshape(-1)
    return np.sum(ids[:, None] == ids[None, :], axis=1)


EMBEDDING = Chain(
    arguments=("ids", "weight"),
    gradients=("weight",),
    forward={"y": lambda e: e.weight[e.ids]},
    backward={"dweight": _scatter},
    mistakes=(
        mistake(
            "a repeated id keeps the last of its gradients: dweight[ids] += dy writes each row "
            "once; add them up (np.add.at)",
            dweight=lambda e: _keep_one(e, slice(None)),
        ),
        mistake(
            "a repeated id keeps the first of its gradients: add them up",
            dweight=lambda e: _keep_one(e, slice(None, None, -1)),
        ),
        mistake(
            "the gradients of a repeated id are averaged: add them up",
            dweight=lambda e: _scatter(e, weights=1.0 / _counts(e)),
        ),
        mistake(
            "dweight is divided by the number of ids, and the loss has averaged already",
            dweight=lambda e: _scatter(e) / e.ids.size,
        ),
        mistake(
            "id 0 gets no gradient: it is a token like any other here, not padding",
            dweight=lambda e: _scatter(e, weights=(e.ids.reshape(-1) != 0).astype(float)),
        ),
        mistake(
            "dweight is multiplied by the weight: y is a copy of rows, so dy passes as it is",
            dweight=lambda e: _scatter(e) * e.weight,
        ),
    ),
    forward_mistakes=(
        mistake("the row after the id's is taken", y=lambda e: np.roll(e.weight, -1, 0)[e.ids]),
    ),
)
