"""Whole layers, where arrays are read more than once: self_attention, mlp, residual, tied_embedding.

What is read twice gets two gradients, and their sum is what goes missing.
"""

from dataclasses import replace

import numpy as np

from xplm.numerics.mistakes.activations import SWIGLU
from xplm.numerics.mistakes.attention import (
    DSCORES,
    NOT_CAUSAL,
    SCORE_FORWARD_MISTAKES,
    SCORE_WORDS,
    SCORES,
    score_mistakes,
)
from xplm.numerics.mistakes.chain import (
    Chain,
    Formula,
    Reduction,
    Values,
    flip,
    mistake,
    part_mistakes,
    rows,
)
from xplm.numerics.mistakes.linear import EMBEDDING
from xplm.numerics.mistakes.losses import DLOGITS, LOGITS, ONE_HOT
from xplm.numerics.mistakes.norms import DX_OF_RMS, RMS_NORM, RMS_WORDS, SQUARES


def _heads(e: Values, x: np.ndarray) -> np.ndarray:
    """(B, T, H D) as (B, H, T, D)."""
    B, T, width = x.shape
    D = e.wq.shape[0] // e.n_heads
    return x.reshape(B, T, width // D, D).transpose(0, 2, 1, 3)


def _joined(x: np.ndarray) -> np.ndarray:
    """(B, H, T, D) as (B, T, H D)."""
    B, _, T, _ = x.shape
    return x.transpose(0, 2, 1, 3).reshape(B, T, -1)


def _outer(dy: np.ndarray, x: np.ndarray) -> np.ndarray:
    return flip(rows(dy)) @ rows(x)


def _project_out(e: Values) -> np.ndarray:
    return e.context if e.wo is None else e.context @ flip(e.wo)


def _project_back(e: Values) -> np.ndarray:
    return e.dy if e.wo is None else e.dy @ e.wo


def _wo_gradient(e: Values) -> np.ndarray | None:
    return None if e.wo is None else _outer(e.dy, e.context)


def _x_gradient(e: Values, parts: str = "qkv") -> np.ndarray:
    reads = {"q": (e.dq_rows, e.wq), "k": (e.dk_rows, e.wk), "v": (e.dv_rows, e.wv)}
    return sum((d @ weight for d, weight in map(reads.__getitem__, parts)), np.zeros_like(e.x))


def _dx_of(parts: str) -> Formula:
    return lambda e: _x_gradient(e, parts)


def _renamed(steps: dict[str, Formula]) -> dict[str, Formula]:
    """Attention's steps inside the layer, where its y and dy are not the layer's."""
    inner = {name: step for name, step in steps.items() if name != "y"}
    return inner | ({"context": lambda e: _joined(e.probs @ e.values)} if "y" in steps else {})


def _inside(step: Formula) -> Formula:
    """A step of attention's backward, with the gradient of the heads as its dy."""
    if isinstance(step, Reduction):
        return replace(step, of=_inside(step.of))

    def run(e: Values) -> np.ndarray:
        dy, e.dy = e.dy, e.dheads
        try:
            return step(e)
        finally:
            e.dy = dy

    return run


SELF_ATTENTION = Chain(
    arguments=("x", "wq", "wk", "wv", "wo"),
    gradients=("x", "wq", "wk", "wv", "wo"),
    forward={
        "causal": lambda e: getattr(e, "causal", True),
        "start": lambda e: 0,
        "window": lambda e: None,
        "first": lambda e: None,
        "q": lambda e: _heads(e, e.x @ flip(e.wq)),
        "k": lambda e: _heads(e, e.x @ flip(e.wk)),
        "v": lambda e: _heads(e, e.x @ flip(e.wv)),
        "scale": lambda e: e.q.shape[-1] ** -0.5,
        **_renamed(SCORES),
        "y": _project_out,
    },
    backward={
        "dcontext": _project_back,
        "dheads": lambda e: _heads(e, e.dcontext),
        **{name: _inside(step) for name, step in DSCORES.items()},
        "dq_rows": lambda e: _joined(e.dq),
        "dk_rows": lambda e: _joined(e.dk),
        "dv_rows": lambda e: _joined(e.dv),
        "dx": _x_gradient,
        "dwq": lambda e: _outer(e.dq_rows, e.x),
        "dwk": lambda e: _outer(e.dk_rows, e.x),
        "dwv": lambda e: _outer(e.dv_rows, e.x),
        "dwo": _wo_gradient,
    },
    mistakes=(
        *(
            mistake(
                m.says,
                **{
                    name: _inside(step) if name in DSCORES else step
                    for name, step in m.steps.items()
                },
            )
            for m in score_mistakes("dWq", "dWk", "dWv")
        ),
        mistake(
            "dx counts the path through q alone: x is read three times, by q, k and v, and their "
            "gradients add up",
            dx=_dx_of("q"),
        ),
        mistake(
            "dx lacks the path through q: x is read three times, by q, k and v", dx=_dx_of("kv")
        ),
        mistake(
            "dx lacks the path through k: x is read three times, by q, k and v", dx=_dx_of("qv")
        ),
        mistake(
            "dx lacks the path through v: x is read three times, by q, k and v", dx=_dx_of("qk")
        ),
        mistake(
            "dx counts the path through v alone, the last: x is read three times, by q, k and v, "
            "and their gradients add up: += became =",
            dx=_dx_of("v"),
        ),
        mistake(
            "dx is the mean of its three paths: they add up",
            dx=lambda e: _x_gradient(e) / 3,
        ),
        mistake(
            "the gradient does not pass back through Wo, which comes after the heads",
            dcontext=lambda e: e.dy if _is_square(e) else _project_back(e),
        ),
        mistake(
            "dy passes Wo the wrong way round: y = heads @ Wo asks for dy @ Wo^T, y = heads @ Wo^T for "
            "dy @ Wo",
            dcontext=lambda e: e.dy @ flip(e.wo) if _is_square(e) else _project_back(e),
        ),
        mistake(
            "dWo is made of x where the heads' output belongs",
            dwo=lambda e: _outer(e.dy, e.x) if _is_square(e) else _wo_gradient(e),
        ),
        mistake(
            "dWq, dWk and dWv are divided by the batch size, and the loss has averaged already",
            dwq=lambda e: _outer(e.dq_rows, e.x) / len(e.x),
            dwk=lambda e: _outer(e.dk_rows, e.x) / len(e.x),
            dwv=lambda e: _outer(e.dv_rows, e.x) / len(e.x),
        ),
    ),
    forward_mistakes=SCORE_FORWARD_MISTAKES,
    forms=(NOT_CAUSAL,),
    matrices=("wq", "wk", "wv", "wo"),
    positions={"x": 2},
    words=SCORE_WORDS,
    kept=("y", "context"),
)


def _is_square(e: Values) -> bool:
    return e.wo is not None and e.wo.shape[0] == e.wo.shape[1]


MLP = Chain(
    arguments=("x", "gate", "up", "down"),
    gradients=("x", "gate", "up", "down"),
    forward={
        "g": lambda e: e.x @ flip(e.gate),
        "u": lambda e: e.x @ flip(e.up),
        "s": lambda e: 1 / (1 + np.exp(-e.g)),
        "hidden": lambda e: e.g * e.s * e.u,
        "y": lambda e: e.hidden @ flip(e.down),
    },
    backward={
        "dhidden": lambda e: e.dy @ e.down,
        "slope": lambda e: e.s * (1 + e.g * (1 - e.s)),
        "dg": lambda e: e.dhidden * e.u * e.slope,
        "du": lambda e: e.dhidden * e.g * e.s,
        "dx": lambda e: e.dg @ e.gate + e.du @ e.up,
        "dgate": lambda e: _outer(e.dg, e.x),
        "dup": lambda e: _outer(e.du, e.x),
        "ddown": lambda e: _outer(e.dy, e.hidden),
    },
    mistakes=(
        mistake(
            "dx lacks the path through the gate: x is read twice, by gate and up, and both add up: "
            "+= became =",
            dx=lambda e: e.du @ e.up,
        ),
        mistake(
            "dx lacks the path through up: x is read twice, by gate and up, and both add up",
            dx=lambda e: e.dg @ e.gate,
        ),
        *part_mistakes(
            SWIGLU,
            seen=lambda e: {"gate": e.g, "up": e.u, "s": e.s, "y": e.hidden},
            dy=lambda e: e.dhidden,
            results={"gate": "dg", "up": "du"},
            words={"dgate": "the gradient of the gate's output", "dup": "that of up's output"},
            where="inside swiglu, ",
        ),
        mistake(
            "ddown is made of up's output where the hidden row silu(gate) * up belongs",
            ddown=lambda e: _outer(e.dy, e.u),
        ),
        mistake(
            "ddown is made of silu(gate) where the hidden row silu(gate) * up belongs",
            ddown=lambda e: _outer(e.dy, e.g * e.s),
        ),
    ),
    forward_mistakes=(
        mistake("gate and up are swapped", hidden=lambda e: e.g * e.u / (1 + np.exp(-e.u))),
        mistake("the gate has a sigmoid where silu belongs", hidden=lambda e: e.s * e.u),
    ),
    matrices=("gate", "up", "down"),
    positions={"x": 1},
    words={
        "dhidden": "the gradient of the hidden row, dy down,",
        "dg": "the gradient of the gate's output",
        "du": "the gradient of up's output",
    },
)

RESIDUAL = Chain(
    arguments=("x", "norm", "weight"),
    gradients=("x", "norm", "weight"),
    forward={
        "squares": SQUARES,
        "rstd": lambda e: 1 / np.sqrt(e.squares + e.eps),
        "n": lambda e: e.x * e.rstd,
        "branch": lambda e: e.n * e.norm,
        "y": lambda e: e.x + e.branch @ flip(e.weight),
    },
    backward={
        "dbranch": lambda e: e.dy @ e.weight,
        "dn": lambda e: e.dbranch * e.norm,
        "past": lambda e: e.dy,
        **DX_OF_RMS,
        "through": lambda e: e.direct - e.by_rstd,
        "dx": lambda e: e.past + e.through,
        "dnorm": lambda e: rows(e.dbranch * e.n).sum(0),
        "dweight": lambda e: _outer(e.dy, e.branch),
    },
    mistakes=(
        mistake(
            "the residual's gradient is dropped: dy goes into the branch and past it, "
            "dx = dy + what the branch gives back",
            past=lambda e: 0.0,
        ),
        mistake(
            "the branch's gradient is dropped: dx = dy + what the branch gives back",
            through=lambda e: np.zeros_like(e.x),
        ),
        mistake("the residual's gradient is counted twice", past=lambda e: 2 * e.dy),
        mistake(
            "the branch's gradient skips the norm: it passes back through rms_norm too",
            through=lambda e: e.dbranch,
        ),
        *part_mistakes(
            RMS_NORM,
            seen=lambda e: {
                **{"x": e.x, "weight": e.norm, "eps": e.eps},
                **{"rstd": e.rstd, "n": e.n, "y": e.branch},
            },
            dy=lambda e: e.dbranch,
            results={"x": "through", "weight": "dnorm"},
            words={"dweight": "dnorm"},
            where="inside the branch's rms_norm, ",
        ),
        mistake(
            "the residual's gradient passes through the norm: it goes past the branch untouched",
            past=lambda e: 0.0,
            dbranch=lambda e: e.dy @ e.weight + e.dy,
        ),
        mistake(
            "dweight is made of x where the normalised x belongs",
            dweight=lambda e: _outer(e.dy, e.x),
        ),
    ),
    forward_mistakes=(
        mistake("x is not added back", y=lambda e: e.branch @ flip(e.weight)),
        mistake(
            "the normalised x is added back; x itself belongs",
            y=lambda e: e.branch + e.branch @ flip(e.weight),
        ),
    ),
    matrices=("weight",),
    positions={"x": 1},
    words=RMS_WORDS | {"past": "dy, which goes past the branch,"},
)


def _embedding_share(e: Values) -> np.ndarray:
    table = np.zeros_like(e.weight)
    np.add.at(table, e.ids, e.drows)
    return table


TIED_EMBEDDING = Chain(
    arguments=("ids", "weight", "targets"),
    gradients=("weight",),
    forward={
        "x": lambda e: e.weight[e.ids],
        "logits": lambda e: e.x @ flip(e.weight),
        **LOGITS,
        "y": lambda e: np.asarray(
            np.where(
                e.counted, (e.lse - (e.one_hot * e.logits).sum(-1, keepdims=True))[:, 0], 0
            ).sum()
            / e.counted.sum()
        ),
    },
    backward={
        **DLOGITS,
        "weights": lambda e: np.full(e.ids.shape, e.dy / e.counted.sum()),
        "as_head": lambda e: flip(e.dlogits) @ e.x,
        "drows": lambda e: e.dlogits @ e.weight,
        "as_embedding": _embedding_share,
        "dweight": lambda e: e.as_head + e.as_embedding,
    },
    mistakes=(
        mistake(
            "the tied table lost its gradient as embedding: it is read twice, and both add up",
            as_embedding=lambda e: 0.0,
        ),
        mistake(
            "the tied table lost its gradient as head: it is read twice, and both add up",
            as_head=lambda e: 0.0,
        ),
        *part_mistakes(
            EMBEDDING,
            seen=lambda e: {"ids": e.ids, "weight": e.weight, "y": e.x},
            dy=lambda e: e.drows,
            results={"weight": "as_embedding"},
            words={"dweight": "dE", "dy": "drows"},
            where="the tied table's gradient as embedding: ",
        ),
        mistake(
            "the tied table's two gradients are averaged: they add up",
            dweight=lambda e: (e.as_head + e.as_embedding) / 2,
        ),
        mistake(
            "the mean is taken over all rows, padded tokens included: divide by the scored ones",
            weights=lambda e: np.full(e.ids.shape, e.dy / len(e.ids)),
        ),
        mistake("dlogits is p alone: the one-hot target is not subtracted", push=lambda e: 0.0),
        mistake(
            "rows whose target is ignore_index have a gradient: they are not scored",
            seen=lambda e: np.ones_like(e.counted),
        ),
    ),
    words={
        "dlogits": "dlogits",
        "push": ONE_HOT,
        "as_head": "the tied table's gradient as head",
        "as_embedding": "the tied table's gradient as embedding",
    },
)
