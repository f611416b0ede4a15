"""cross_entropy by row and as a mean, and linear_cross_entropy: p minus one-hot, over the right number of rows."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from xplm.numerics.mistakes.chain import (
    Chain,
    Form,
    Formula,
    Mistake,
    Values,
    bias_or_zero,
    flip,
    mean,
    mistake,
    total,
)


def _lse(e: Values) -> np.ndarray:
    highest = e.logits.max(-1, keepdims=True)
    return highest + np.log(total(np.exp(e.logits - highest)))


def _one_hot(e: Values, targets: np.ndarray) -> np.ndarray:
    return (np.arange(e.logits.shape[-1]) == targets[:, None]).astype(float)


def _push(e: Values, targets: np.ndarray) -> np.ndarray:
    """The smoothed distribution that p is drawn towards."""
    return (1 - e.a) * _one_hot(e, targets) + e.a / e.logits.shape[-1]


def _row_losses(e: Values) -> np.ndarray:
    """The loss of every row, scored or not, (N,)."""
    target_logit = total(e.one_hot * e.logits)
    smoothed = (1 - e.a) * target_logit + e.a * mean(e.logits)
    return (e.lse - smoothed + e.z * e.lse**2)[:, 0]


LOGITS: dict[str, Formula] = {
    "a": lambda e: getattr(e, "label_smoothing", 0.0),
    "z": lambda e: getattr(e, "z_loss", 0.0),
    "counted": lambda e: e.targets != e.ignore_index,
    "lse": _lse,
    "one_hot": lambda e: _one_hot(e, e.targets),
}
"""Forward steps from logits on."""

DLOGITS: dict[str, Formula] = {
    "p": lambda e: np.exp(e.logits - e.lse),
    "pull": lambda e: e.p * (1 + 2 * e.z * e.lse),
    "push": lambda e: _push(e, e.targets),
    "seen": lambda e: e.counted,
    "weights": lambda e: e.dy,
    "dlogits": lambda e: np.where(e.seen, e.weights, 0.0)[:, None] * (e.pull - e.push),
}
"""Backward steps down to logits, from dy (N,), one number a row."""

COLUMNS = "wrong axis: the softmax runs over the rows, axis 0; it should run over the vocabulary, the last"

ONE_HOT = "the one-hot target in p - one_hot"


def _column_softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(0))
    return e / e.sum(0)


def _logit_mistakes(gradient: str) -> tuple[Mistake, ...]:
    return (
        mistake(
            f"{gradient} is p alone: the one-hot target is not subtracted",
            push=lambda e: 0.0,
        ),
        mistake(
            f"{gradient} is the target minus p: the sign is wrong, p - one_hot belongs",
            dlogits=lambda e: np.where(e.seen, e.weights, 0.0)[:, None] * (e.push - e.pull),
        ),
        mistake(
            f"{gradient} has a gradient in rows whose target is ignore_index: they are not scored",
            seen=lambda e: np.ones_like(e.counted),
        ),
        mistake(
            f"{gradient} has a gradient in rows whose target is ignore_index, as if it were 0: they "
            "are not scored",
            seen=lambda e: np.ones_like(e.counted),
            push=lambda e: _push(e, np.where(e.counted, e.targets, 0)),
        ),
        mistake(
            f"{gradient} is divided by the vocabulary size",
            dlogits=lambda e: (
                np.where(e.seen, e.weights, 0.0)[:, None] * (e.pull - e.push) / e.logits.shape[-1]
            ),
        ),
        mistake(
            f"{gradient} has log p where p belongs",
            pull=lambda e: e.logits - e.lse,
        ),
        mistake(
            f"{gradient} has the logits where their softmax p belongs",
            pull=lambda e: e.logits,
        ),
        mistake(
            f"{gradient} goes through the softmax twice: p - one_hot is already the gradient of "
            "the logits",
            dlogits=lambda e: (
                np.where(e.seen, e.weights, 0.0)[:, None]
                * e.p
                * ((e.pull - e.push) - total((e.pull - e.push) * e.p))
            ),
        ),
        mistake(
            f"{gradient} is -one_hot / p, the gradient of p: the softmax was not passed",
            dlogits=lambda e: np.where(e.seen, e.weights, 0.0)[:, None] * -e.push / e.p,
        ),
        mistake(
            f"wrong axis: {gradient}'s softmax runs over the rows, axis 0; it should run over the "
            "vocabulary, the last",
            p=lambda e: _column_softmax(e.logits),
        ),
        *_smoothing_mistakes(gradient),
    )


def _smoothing_mistakes(gradient: str) -> tuple[Mistake, ...]:
    """In label smoothing and z-loss."""
    return (
        mistake(
            f"{gradient} forgets the label smoothing: the target is 1 - a, and a / V everywhere",
            push=lambda e: e.one_hot,
        ),
        mistake(
            f"{gradient} spreads label smoothing over the other V - 1 ids; the forward's mean has V",
            push=lambda e: (1 - e.a) * e.one_hot + e.a * (1 - e.one_hot) / (e.logits.shape[-1] - 1),
        ),
        mistake(f"{gradient} forgets the z-loss: p (1 + 2 z lse)", pull=lambda e: e.p),
        mistake(
            f"the z-loss lacks the 2 of its square in {gradient}: p (1 + 2 z lse)",
            pull=lambda e: e.p * (1 + e.z * e.lse),
        ),
        mistake(
            f"the z-loss lacks p in {gradient}: its gradient is 2 z lse p",
            pull=lambda e: e.p + 2 * e.z * e.lse,
        ),
    )


_FORWARD_MISTAKES: tuple[Mistake, ...] = (
    mistake("the sign is wrong: the loss is -log p", y=lambda e: -_scored(e)),
    mistake("rows whose target is ignore_index are scored", y=lambda e: _row_losses(e)),
    mistake(
        "it is -p of the target where -log p belongs",
        y=lambda e: np.where(e.counted, -np.exp(total(e.one_hot * e.logits) - e.lse)[:, 0], 0.0),
    ),
    mistake("the loss is in bits: log2 where log belongs", y=lambda e: _scored(e) / np.log(2)),
    mistake(COLUMNS, y=lambda e: _column_losses(e)),
)


def _column_losses(e: Values) -> np.ndarray:
    """Losses by a softmax over the rows, (N,)."""
    p = _column_softmax(e.logits)
    return np.where(e.counted, -np.log(total(e.one_hot * p)[:, 0]), 0.0)


def _scored(e: Values) -> np.ndarray:
    return np.where(e.counted, _row_losses(e), 0.0)


def _mean_of(dlogits: Mapping[str, Formula]) -> dict[str, Formula]:
    """The same steps, from the one dy of a mean over scored rows."""
    return {**dlogits, "weights": lambda e: np.full(e.targets.shape, e.dy / e.divisor)}


def _full(e: Values, value: Any) -> np.ndarray:
    return np.full(e.targets.shape, value)


CROSS_ENTROPY = Chain(
    arguments=("x", "targets"),
    gradients=("x",),
    forward={"logits": lambda e: e.x} | LOGITS | {"y": _scored},
    backward=DLOGITS | {"dx": lambda e: e.dlogits},
    mistakes=(
        *_logit_mistakes("dx"),
        mistake(
            "dx is divided by the number of rows; the losses are one a row, and their mean is the "
            "caller's to take",
            weights=lambda e: e.dy / len(e.targets),
        ),
        mistake(
            "dx is divided by the number of scored rows; the losses are one a row, and their mean "
            "is the caller's to take",
            weights=lambda e: e.dy / e.counted.sum(),
        ),
        mistake(
            "dx ignores dy, which weights the rows",
            weights=lambda e: np.ones_like(e.dy),
        ),
        mistake(
            "dx has the mean of dy in every row; each row has its own",
            weights=lambda e: np.full_like(e.dy, e.dy.mean()),
        ),
    ),
    forward_mistakes=_FORWARD_MISTAKES,
    positions={"x": 1, "targets": 0},
    words={"push": ONE_HOT},
)

MEAN_CROSS_ENTROPY = Chain(
    arguments=("x", "targets"),
    gradients=("x",),
    forward={"logits": lambda e: e.x}
    | LOGITS
    | {
        "divisor": lambda e: 1 if getattr(e, "is_sum", False) else e.counted.sum(),
        "y": lambda e: np.asarray(_scored(e).sum() / e.divisor),
    },
    backward=_mean_of(DLOGITS) | {"dx": lambda e: e.dlogits},
    mistakes=(
        *_logit_mistakes("dx"),
        mistake(
            "dx takes the mean over all rows, padded tokens included: the forward divides by the "
            "number of scored ones",
            weights=lambda e: _full(e, e.dy / len(e.targets)),
        ),
        mistake(
            "dx is not divided by the number of scored rows: the loss is their mean",
            weights=lambda e: _full(e, e.dy),
        ),
        mistake(
            "dx is divided twice by the number of scored rows",
            weights=lambda e: _full(e, e.dy / e.counted.sum() ** 2),
        ),
        mistake(
            "dx takes the mean over all rows, padded tokens included, and gives those a gradient",
            weights=lambda e: _full(e, e.dy / len(e.targets)),
            seen=lambda e: np.ones_like(e.counted),
        ),
    ),
    forward_mistakes=(
        mistake(
            "the mean is taken over all rows, padded tokens included: divide by the number of "
            "scored ones",
            y=lambda e: np.asarray(_scored(e).mean()),
        ),
        mistake(
            "padded tokens are scored and counted",
            y=lambda e: np.asarray(_row_losses(e).mean()),
        ),
        mistake(
            "the sign is wrong: the loss is -log p",
            y=lambda e: np.asarray(-_scored(e).sum() / e.counted.sum()),
        ),
        mistake(
            "the loss is in bits: log2 where log belongs",
            y=lambda e: np.asarray(_scored(e).sum() / e.counted.sum() / np.log(2)),
        ),
        mistake(
            COLUMNS,
            y=lambda e: np.asarray(_column_losses(e).sum() / e.counted.sum()),
        ),
    ),
    forms=(Form("as the sum over rows", {"is_sum": True}),),
    positions={"x": 1, "targets": 0},
    words={"push": ONE_HOT},
)


def _capped(logits: np.ndarray, cap: float | None) -> np.ndarray:
    return logits if cap is None else cap * np.tanh(logits / cap)


LINEAR_CROSS_ENTROPY = Chain(
    arguments=("x", "weight", "targets", "bias"),
    gradients=("x", "weight", "bias"),
    forward={
        "products": lambda e: e.x @ flip(e.weight) + bias_or_zero(e),
        "scale": lambda e: getattr(e, "logit_scale", 1.0),
        "cap": lambda e: getattr(e, "logit_cap", None),
        "logits": lambda e: _capped(e.scale * e.products, e.cap),
    }
    | LOGITS
    | {"y": _scored},
    backward=DLOGITS
    | {
        "slope": lambda e: 1.0 if e.cap is None else 1.0 - (e.logits / e.cap) ** 2,
        "dproducts": lambda e: e.dlogits * e.slope * e.scale,
        "dx": lambda e: e.dproducts @ e.weight,
        "dweight": lambda e: flip(e.dproducts) @ e.x,
        "dbias": lambda e: e.dproducts.sum(0),
    },
    mistakes=(
        *_logit_mistakes("dlogits"),
        mistake(
            "dweight takes the last row alone: += became =",
            dweight=lambda e: flip(e.dproducts[-1:]) @ e.x[-1:],
        ),
        mistake(
            "dx, dweight and dbias are divided by the number of rows; the losses are one a row",
            weights=lambda e: e.dy / len(e.targets),
        ),
        mistake(
            "dbias is averaged over the rows: a bias gradient is their sum",
            dbias=lambda e: e.dproducts.mean(0),
        ),
        mistake(
            "dbias takes the last row alone: += became =",
            dbias=lambda e: e.dproducts[-1],
        ),
        mistake(
            "dbias ignores dy, which weights the rows",
            dbias=lambda e: np.where(e.seen[:, None], e.pull - e.push, 0.0).sum(0),
        ),
        mistake("dy, which weights the rows, is ignored", weights=lambda e: np.ones_like(e.dy)),
    ),
    forward_mistakes=(
        *_FORWARD_MISTAKES,
        mistake("the bias is not added", products=lambda e: e.x @ flip(e.weight)),
        mistake(
            "the bias is subtracted", products=lambda e: e.x @ flip(e.weight) - bias_or_zero(e)
        ),
    ),
    matrices=("weight",),
    positions={"x": 1, "targets": 0},
    words={"push": ONE_HOT},
)
