"""What somebody's op is tried on: the cases of `op_cases`, and cases for the layers that have no kernel."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.random import Generator

from xplm.numerics.op_cases import IGNORE, OPS, OpCase, op_cases


def grading_cases(op: str, seed: int = 0) -> list[OpCase]:
    """The cases of an op of CHAINS, in an order in which what is simple comes first."""
    if op in OPS:
        return [case for case in op_cases(op, seed) if not case.tuning]
    return _LAYER_CASES[op](np.random.default_rng(seed))


def assumed(args: Mapping[str, np.ndarray | None]) -> dict[str, Any]:
    """What an option is where somebody's forward has no parameter for it; a case that says otherwise is left out."""
    values = {
        "eps": 1e-5,
        "start": 0,
        "window": None,
        "n_heads": 1,
        "ignore_index": IGNORE,
        "label_smoothing": 0.0,
        "z_loss": 0.0,
    }
    q = args.get("q")
    return values if q is None else values | {"scale": q.shape[-1] ** -0.5}


def _mean_cross_entropy(rng: Generator) -> list[OpCase]:
    return [
        OpCase(
            case.label,
            case.args,
            case.options,
        )
        for case in op_cases("cross_entropy", int(rng.integers(100)))
    ]


def _self_attention(rng: Generator) -> list[OpCase]:
    def arrays(B: int, T: int, C: int, width: int, *, out: bool) -> tuple[np.ndarray, ...]:
        n = rng.standard_normal
        x, weights = n((B, T, C)), [n((width, C)) / C**0.5 for _ in "qkv"]
        return (x, *weights, n((C, width)) / width**0.5) if out else (x, *weights)

    return [
        OpCase("one head", arrays(1, 4, 6, 6, out=True), {"n_heads": 1}),
        OpCase("a batch", arrays(3, 5, 7, 7, out=True), {"n_heads": 1}),
        OpCase("narrow heads", arrays(2, 4, 7, 5, out=True), {"n_heads": 1}),
        OpCase("two heads", arrays(2, 5, 6, 6, out=True), {"n_heads": 2}),
        OpCase("no Wo", arrays(1, 4, 6, 6, out=False), {"n_heads": 1}),
        OpCase("no Wo, a batch", arrays(3, 5, 7, 7, out=False), {"n_heads": 1}),
    ]


def _mlp(rng: Generator) -> list[OpCase]:
    n = rng.standard_normal
    return [
        OpCase("two axes", (n((6, 5)), n((7, 5)), n((7, 5)), n((5, 7)))),
        OpCase("three axes", (n((2, 3, 4)), n((6, 4)), n((6, 4)), n((4, 6)))),
    ]


def _residual(rng: Generator) -> list[OpCase]:
    n = rng.standard_normal
    return [
        OpCase("two axes", (n((6, 5)), n(5), n((5, 5))), {"eps": 1e-5}),
        OpCase("three axes", (n((2, 3, 4)), n(4), n((4, 4))), {"eps": 1e-5}),
    ]


def _tied_embedding(rng: Generator) -> list[OpCase]:
    n = rng.standard_normal
    options = {"ignore_index": IGNORE}
    return [
        OpCase(
            "repeated ids",
            (np.array([2, 4, 4, 1, 2]), n((6, 3)), np.array([4, 1, 0, 2, 5])),
            options,
        ),
        OpCase(
            "one ignored",
            (np.array([0, 4, 3, 1]), n((7, 4)), np.array([4, IGNORE, 3, 0])),
            options,
        ),
    ]


_LAYER_CASES: dict[str, Callable[[Generator], list[OpCase]]] = {
    "mean_cross_entropy": _mean_cross_entropy,
    "self_attention": _self_attention,
    "mlp": _mlp,
    "residual": _residual,
    "tied_embedding": _tied_embedding,
}
