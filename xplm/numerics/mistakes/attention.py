"""softmax and attention: factors of sqrt(d), the sum inside softmax's Jacobian, and heads that share their keys."""

from functools import partial
from typing import Any

import numpy as np

from xplm.numerics.mistakes.chain import (
    WRONG_AXES,
    Chain,
    Form,
    Formula,
    Mistake,
    Reduction,
    Values,
    axes_of,
    flip,
    mean,
    mistake,
    part_mistakes,
    total,
)


def masked_softmax(x: np.ndarray, visible: np.ndarray | None, axis: Any = -1) -> np.ndarray:
    """Over visible entries; a row with none is zeros."""
    scores = x if visible is None else np.where(visible, x, -np.inf)
    highest = scores.max(axis, keepdims=True)
    e = np.exp(scores - np.where(np.isfinite(highest), highest, 0.0))
    sums = e.sum(axis, keepdims=True)
    return e / np.where(sums > 0, sums, 1.0)


SOFTMAX = Chain(
    arguments=("x", "visible"),
    gradients=("x",),
    forward={"y": lambda e: masked_softmax(e.x, e.visible)},
    backward={
        "inner": Reduction("the sum of dy * y", np.sum, lambda e: e.dy * e.y),
        "dx": lambda e: e.y * (e.dy - e.inner),
    },
    positions={"x": 1, "visible": 1},
    mistakes=(
        mistake(
            "dx takes the diagonal of the Jacobian alone, y (1 - y): each output depends on all inputs, "
            "dx = y * (dy - sum(dy * y))",
            dx=lambda e: e.dy * e.y * (1 - e.y),
        ),
        mistake(
            "dx lacks the sum over the row: dx = y * (dy - sum(dy * y))", dx=lambda e: e.y * e.dy
        ),
        mistake(
            "the sum lacks its y: dx = y * (dy - sum(dy * y))",
            dx=lambda e: e.y * (e.dy - total(e.dy)),
        ),
        mistake(
            "a mean stands where the sum over the row belongs: dx = y * (dy - sum(dy * y))",
            dx=lambda e: e.y * (e.dy - mean(e.dy * e.y)),
        ),
        mistake(
            "the sum has the wrong sign: dx = y * (dy - sum(dy * y))",
            dx=lambda e: e.y * (e.dy + total(e.dy * e.y)),
        ),
        mistake(
            "dx lacks the y in front: dx = y * (dy - sum(dy * y))",
            dx=lambda e: e.dy - total(e.dy * e.y),
        ),
        mistake(
            "the y in front reaches dy only: dx = y * (dy - sum(dy * y))",
            dx=lambda e: e.y * e.dy - total(e.dy * e.y),
        ),
        mistake(
            "the sum has y^2 where y belongs: dx = y * (dy - sum(dy * y))",
            dx=lambda e: e.y * (e.dy - total(e.dy * e.y**2)),
        ),
        mistake("dx is log_softmax's: dy - y * sum(dy)", dx=lambda e: e.dy - e.y * total(e.dy)),
    ),
    forward_mistakes=(
        *(
            mistake(
                f"wrong axis: it runs over {words}; each row is a softmax of its own, over the "
                "last axis",
                y=partial(lambda axis, e: masked_softmax(e.x, e.visible, axes_of(axis, e.x)), axis),
            )
            for axis, words in WRONG_AXES
        ),
        mistake("the mask is ignored", y=lambda e: masked_softmax(e.x, None)),
        mistake("it is log_softmax", y=lambda e: np.log(masked_softmax(e.x, e.visible))),
    ),
)


def visible_keys(e: Values, *, window: bool = True, first: bool = True) -> np.ndarray:
    """Which slots each query sees, (B or 1, 1, T, S)."""
    T, S = e.q.shape[2], e.k.shape[2]
    slot = np.arange(S)[None, None, None, :]
    query = e.start + np.arange(T)[None, None, :, None]
    visible = slot <= query if e.causal else np.ones((1, 1, T, S), bool)
    if window and e.window is not None:
        visible = visible & (slot > query - e.window)
    if first and e.first is not None:
        visible = visible & (slot >= e.first[:, None, :, None])
    return visible


def _per_head(e: Values, x: np.ndarray) -> np.ndarray:
    """Keys or values (B, K, S, D) as each query head reads them, (B, H, S, D)."""
    return np.repeat(x, e.q.shape[1] // x.shape[1], axis=1)


def _groups(e: Values, x: np.ndarray) -> np.ndarray:
    """(B, H, S, D) as (B, K, G, S, D)."""
    K = e.k.shape[1]
    return x.reshape(x.shape[0], K, -1, *x.shape[2:])


SCORES: dict[str, Formula] = {
    "visible": visible_keys,
    "keys": lambda e: _per_head(e, e.k),
    "values": lambda e: _per_head(e, e.v),
    "scores": lambda e: e.scale * (e.q @ flip(e.keys)),
    "probs": lambda e: masked_softmax(e.scores, e.visible),
    "y": lambda e: e.probs @ e.values,
}
"""Forward steps, from q, k and v in heads."""

DSCORES: dict[str, Formula] = {
    "dvalues": lambda e: flip(e.probs) @ e.dy,
    "dprobs": lambda e: e.dy @ flip(e.values),
    "delta": Reduction("the sum of dP * P", np.sum, lambda e: e.dprobs * e.probs),
    "dscores": lambda e: e.probs * (e.dprobs - e.delta),
    "dq": lambda e: e.scale * (e.dscores @ e.keys),
    "dkeys": lambda e: e.scale * (flip(e.dscores) @ e.q),
    "dk": lambda e: _groups(e, e.dkeys).sum(2),
    "dv": lambda e: _groups(e, e.dvalues).sum(2),
}
"""Backward steps down to q, k and v."""

SCORE_WORDS = {
    "dprobs": "dP = dy v^T",
    "delta": "the sum in softmax's gradient, dS = P * (dP - sum(dP * P)),",
    "dscores": "dS, the gradient of the scores,",
}


def score_mistakes(dq: str, dk: str, dv: str) -> tuple[Mistake, ...]:
    """Mistakes between heads and their scores, for an op that calls these gradients so."""
    return (
        mistake(
            f"the 1/sqrt(d) is missing in {dq} and {dk}; the scores were scaled, so their gradient "
            "is too",
            dq=lambda e: e.dscores @ e.keys,
            dkeys=lambda e: flip(e.dscores) @ e.q,
        ),
        mistake(f"the 1/sqrt(d) is missing in {dq}", dq=lambda e: e.dscores @ e.keys),
        mistake(f"the 1/sqrt(d) is missing in {dk}", dkeys=lambda e: flip(e.dscores) @ e.q),
        mistake(
            f"the 1/sqrt(d) is applied twice in {dq} and {dk}",
            dq=lambda e: e.scale**2 * (e.dscores @ e.keys),
            dkeys=lambda e: e.scale**2 * (flip(e.dscores) @ e.q),
        ),
        *part_mistakes(
            SOFTMAX,
            seen=lambda e: {"x": e.scores, "visible": e.visible, "y": e.probs},
            dy=lambda e: e.dprobs,
            results={"x": "dscores"},
            words={"dx": "dS", "dy": "dP", "y": "P"},
            where="softmax's gradient: ",
        ),
        mistake(
            "softmax is not differentiated at all: dS = P * (dP - sum(dP * P))",
            dscores=lambda e: e.dprobs,
        ),
        mistake(
            "the softmax in the backward sees every key: the mask is not applied again",
            probs=lambda e: masked_softmax(e.scores, None),
        ),
        *_product_mistakes(dq, dk, dv),
        mistake(
            "dP has k where v belongs: dP = dy v^T",
            dprobs=lambda e: e.dy @ flip(e.keys),
        ),
        mistake(
            "the gradient of softmax is negated: dS = P * (dP - sum(dP * P))",
            dscores=lambda e: -e.probs * (e.dprobs - e.delta),
        ),
    )


def _product_mistakes(dq: str, dk: str, dv: str) -> tuple[Mistake, ...]:
    """In the operands of the products."""
    return (
        mistake(
            f"{dk} lacks a transpose: dS^T q, not dS q",
            dkeys=lambda e: (
                e.scale * (e.dscores @ e.q) if _is_square(e) else e.scale * (flip(e.dscores) @ e.q)
            ),
        ),
        mistake(
            f"{dq} has a transpose too many: dS k, not dS^T k",
            dq=lambda e: e.scale * ((flip(e.dscores) if _is_square(e) else e.dscores) @ e.keys),
        ),
        mistake(
            f"{dv} lacks a transpose: P^T dy, not P dy",
            dvalues=lambda e: (e.probs if _is_square(e) else flip(e.probs)) @ e.dy,
        ),
        mistake(
            f"{dv} has the scores where their softmax P belongs",
            dvalues=lambda e: flip(np.where(e.visible, e.scores, 0.0)) @ e.dy,
        ),
        mistake(
            f"{dq} has q where k belongs, and {dk} k where q belongs",
            dq=lambda e: (
                e.scale * (e.dscores @ e.q) if _is_square(e) else e.scale * (e.dscores @ e.keys)
            ),
            dkeys=lambda e: e.scale * (flip(e.dscores) @ (e.keys if _is_square(e) else e.q)),
        ),
    )


def _is_square(e: Values) -> bool:
    return e.q.shape[2] == e.k.shape[2]


def _strided(e: Values, x: np.ndarray) -> np.ndarray:
    """(B, H, S, D) summed over heads h with the same h % K."""
    K = e.k.shape[1]
    return x.reshape(x.shape[0], -1, K, *x.shape[2:]).sum(1)


SCORE_FORWARD_MISTAKES: tuple[Mistake, ...] = (
    mistake("the 1/sqrt(d) is missing", scores=lambda e: e.q @ flip(e.keys)),
    mistake(
        "it divides by d where sqrt(d) belongs", scores=lambda e: e.scale**2 * (e.q @ flip(e.keys))
    ),
    mistake(
        "it multiplies by sqrt(d) where it should divide",
        scores=lambda e: (e.q @ flip(e.keys)) / e.scale,
    ),
    mistake(
        "a query does not see its own position: the mask hides s >= t",
        visible=lambda e: (
            visible_keys(e) & (np.arange(e.k.shape[2]) < e.start + np.arange(e.q.shape[2])[:, None])
        ),
    ),
    mistake(
        "the mask is upside down: queries see what comes after them",
        visible=lambda e: np.arange(e.k.shape[2]) >= e.start + np.arange(e.q.shape[2])[:, None],
    ),
    mistake(
        "wrong axis: the softmax runs over queries; it should run over keys, the last axis",
        probs=lambda e: masked_softmax(e.scores, e.visible, axis=-2),
    ),
    mistake(
        "wrong axis: the softmax runs over the batch, axis 0; it should run over keys, the last axis",
        probs=lambda e: masked_softmax(e.scores, e.visible, axis=0),
    ),
    mistake(
        "wrong axis: the softmax runs over all scores at once; it should run over keys, the last axis",
        probs=lambda e: masked_softmax(e.scores, e.visible, axis=None),
    ),
)

_MASK_AND_GROUP_MISTAKES: tuple[Mistake, ...] = (
    mistake(
        "the backward forgets the sliding window",
        visible=lambda e: visible_keys(e, window=False),
    ),
    mistake(
        "the backward forgets the padding",
        visible=lambda e: visible_keys(e, first=False),
    ),
    mistake(
        "dk and dv take one query head of each group: sum over the G heads that share a key head",
        dk=lambda e: _groups(e, e.dkeys)[:, :, 0],
        dv=lambda e: _groups(e, e.dvalues)[:, :, 0],
    ),
    mistake(
        "dk and dv take one query head of each group, the last: sum over the G heads that "
        "share a key head",
        dk=lambda e: _groups(e, e.dkeys)[:, :, -1],
        dv=lambda e: _groups(e, e.dvalues)[:, :, -1],
    ),
    mistake(
        "dk and dv are averaged over the G query heads that share a key head: they are sums",
        dk=lambda e: _groups(e, e.dkeys).mean(2),
        dv=lambda e: _groups(e, e.dvalues).mean(2),
    ),
    mistake(
        "dk and dv gather the wrong query heads: head h reads key head h // G, not h % K",
        dk=lambda e: _strided(e, e.dkeys),
        dv=lambda e: _strided(e, e.dvalues),
    ),
)

_MASK_AND_GROUP_FORWARD_MISTAKES: tuple[Mistake, ...] = (
    mistake(
        "query head h reads key head h % K; it should read h // G",
        keys=lambda e: np.tile(e.k, (1, e.q.shape[1] // e.k.shape[1], 1, 1)),
        values=lambda e: np.tile(e.v, (1, e.q.shape[1] // e.v.shape[1], 1, 1)),
    ),
    mistake("the sliding window is ignored", visible=lambda e: visible_keys(e, window=False)),
    mistake("the padding is ignored", visible=lambda e: visible_keys(e, first=False)),
)

NOT_CAUSAL = Form("without the causal mask", {"causal": False})


def _ratio(e: Values) -> np.ndarray:
    """The scores as a share of their cap, between -1 and 1."""
    return np.tanh(e.scale * (e.q @ flip(e.keys)) / e.cap)


def _probs_with_sinks(e: Values) -> np.ndarray:
    """A softmax over keys and, where there are sinks, one column more, which is then dropped."""
    if e.sinks is None:
        return masked_softmax(e.scores, e.visible)
    column = np.broadcast_to(e.sinks[:, None, None], (*e.scores.shape[:-1], 1))
    seen = np.broadcast_to(e.visible, e.scores.shape)
    seen = np.concatenate([seen, np.ones_like(seen[..., :1])], axis=-1)
    return masked_softmax(np.concatenate([e.scores, column], axis=-1), seen)[..., :-1]


def _dscores(e: Values) -> np.ndarray:
    """The gradient of the scores before their cap."""
    dcapped = e.probs * (e.dprobs - e.delta)
    return dcapped if e.cap is None else dcapped * (1 - _ratio(e) ** 2)


ATTENTION = Chain(
    arguments=("q", "k", "v", "first", "sinks"),
    gradients=("q", "k", "v", "sinks"),
    forward={
        "causal": lambda e: getattr(e, "causal", True),
        "cap": lambda e: getattr(e, "cap", None),
        **SCORES,
        "scores": lambda e: e.cap * _ratio(e) if e.cap else e.scale * (e.q @ flip(e.keys)),
        "probs": _probs_with_sinks,
    },
    backward={
        **DSCORES,
        "dscores": _dscores,
        "dsinks": lambda e: -((1 - total(e.probs)) * e.delta).sum((0, 2, 3)),
    },
    mistakes=score_mistakes("dq", "dk", "dv") + _MASK_AND_GROUP_MISTAKES,
    forward_mistakes=SCORE_FORWARD_MISTAKES + _MASK_AND_GROUP_FORWARD_MISTAKES,
    forms=(NOT_CAUSAL,),
    positions={"q": 2, "k": 2, "v": 2},
    words=SCORE_WORDS,
)
