"""The cases that a file is tried on: those of `op_cases`, and more for the layers that have no kernel."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.random import Generator

from xplm.numerics.op_cases import IGNORE, SCALE_AND_CAP, OpCase, op_cases


def grading_cases(op: str, seed: int = 0) -> list[OpCase]:
    """The cases of an op of CHAINS, in an order in which what is simple comes first."""
    rng = np.random.default_rng(seed)
    if op in _LAYER_CASES:
        return _LAYER_CASES[op](rng)
    return [case for case in op_cases(op, seed) if _is_gradable(op, case)] + (
        _MORE_CASES[op](rng) if op in _MORE_CASES else []
    )


def _is_gradable(op: str, case: OpCase) -> bool:
    """True where a case is about the op: chunks are about a kernel, zeros for an empty row are a convention, a
    textbook's attention has keys and values of one width and neither cap nor sinks, its norms a weight (C,), its loss
    logits that are neither scaled nor capped, and neighbours as pairs are a form of all of RoPE's cases.
    """
    arrays = [array for array in case.args if array is not None]
    if op in ("rms_norm", "layer_norm") and any(np.ndim(array) > 1 for array in arrays[1:]):
        return False
    if op == "attention" and (len(case.args) > 4 or "cap" in case.options):
        return False
    keys_and_values = case.args[1:3] if op == "attention" else ()
    widths = {array.shape[-1] for array in keys_and_values if array is not None}
    is_form = op == "rope" and bool(case.options)
    is_masked = op == "softmax" and len(case.args) > 1
    is_plain = not case.options.keys() & SCALE_AND_CAP.keys()
    return not case.tuning and len(widths) < 2 and is_plain and not is_form and not is_masked


def assumed(args: Mapping[str, np.ndarray | None]) -> dict[str, Any]:
    """The values of options that a forward has no parameter for; a case with another value is left out."""
    values = {
        "eps": 1e-5,
        "start": 0,
        "window": None,
        "n_heads": 1,
        "label_smoothing": 0.0,
        "z_loss": 0.0,
    }
    targets, q = args.get("targets"), args.get("q")
    if targets is not None and not np.any(targets == IGNORE):
        values["ignore_index"] = IGNORE
    return values if q is None else values | {"scale": q.shape[-1] ** -0.5}


def beyond_textbooks(op: str, case: OpCase) -> str:
    """What a case asks of a forward that textbooks leave out, and what theirs are made for; "" for nothing."""
    shapes = [array.shape for array in case.args if array is not None]
    if op == "attention" and shapes[1][1] < shapes[0][1]:  # k's heads and q's
        return "fewer key heads than query heads (grouped queries): forward is made for as many"
    if op == "rope" and 2 * shapes[1][-1] < shapes[0][-1]:  # columns of cos and of x
        return "rotation of a part of each head: forward is made for whole heads"
    return ""


def n_axes(case: OpCase) -> int:
    """Of a case's first array."""
    return next(array.ndim for array in case.args if array is not None)


def fewest_axes(cases: Sequence[OpCase]) -> list[OpCase]:
    """Those cases whose first array has the fewest axes."""
    fewest = min(n_axes(case) for case in cases)
    return [case for case in cases if n_axes(case) == fewest]


def _all_scored(case: OpCase) -> OpCase:
    """A case of a loss with a class in the place of every ignored target."""
    label = case.label.replace("one ignored, ", "").replace("one ignored", "five rows")
    return OpCase(label, tuple(_in_class_2(array) for array in case.args), case.options)


def _in_class_2(array: np.ndarray | None) -> np.ndarray | None:
    """Targets with class 2 for those that are ignored; other arrays as they are."""
    if array is None or array.dtype.kind == "f":
        return array
    return np.where(array == IGNORE, 2, array)


def _scored_too(op: str) -> Callable[[Generator], list[OpCase]]:
    return lambda rng: [
        _all_scored(case)
        for case in op_cases(op, int(rng.integers(100)))
        if "ignored" in case.label
    ]


def _linear(rng: Generator) -> list[OpCase]:
    n = rng.standard_normal
    return [
        OpCase("square, no bias", (n((7, 5)), n((5, 5)))),
        OpCase("three axes, no bias", (n((2, 3, 5)), n((4, 5)))),
    ]


def _softmax(rng: Generator) -> list[OpCase]:
    n = rng.standard_normal
    visible = rng.random((4, 7)) < 0.6
    visible[:, 2] = True
    return [
        OpCase("a square", (n((5, 5)),)),
        OpCase("mask", (n((4, 7)), visible)),
        OpCase("mask broadcast over heads", (n((2, 3, 4, 7)), visible[None, None])),
    ]


def _attention(rng: Generator) -> list[OpCase]:
    n = rng.standard_normal

    def case(label: str, B: int, H: int, T: int, S: int, D: int, **options: Any) -> OpCase:
        given = {"start": 0, "scale": D**-0.5, "window": None} | options
        return OpCase(label, (n((B, H, T, D)), n((B, H, S, D)), n((B, H, S, D))), given)

    return [
        case("one sequence, one head", 1, 1, 5, 5, 4),
        case("another scale, as many key heads", 2, 2, 4, 4, 3, scale=0.3),
        case("window, as many key heads", 1, 2, 6, 6, 3, window=3),
    ]


def _mean_cross_entropy(rng: Generator) -> list[OpCase]:
    cases = op_cases("cross_entropy", int(rng.integers(100)))
    return cases + [_all_scored(case) for case in cases if "ignored" in case.label]


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
        OpCase("square", (n((5, 4)), n((4, 4)), n((4, 4)), n((4, 4)))),
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
            "repeated ids, wide",
            (np.array([0, 4, 0, 1]), n((7, 4)), np.array([4, 6, 3, 0])),
            options,
        ),
        OpCase(
            "one ignored",
            (np.array([0, 4, 3, 1]), n((7, 4)), np.array([4, IGNORE, 3, 0])),
            options,
        ),
    ]


_MORE_CASES: dict[str, Callable[[Generator], list[OpCase]]] = {
    "linear": _linear,
    "softmax": _softmax,
    "attention": _attention,
    "cross_entropy": _scored_too("cross_entropy"),
    "linear_cross_entropy": _scored_too("linear_cross_entropy"),
}

_LAYER_CASES: dict[str, Callable[[Generator], list[OpCase]]] = {
    "mean_cross_entropy": _mean_cross_entropy,
    "self_attention": _self_attention,
    "mlp": _mlp,
    "residual": _residual,
    "tied_embedding": _tied_embedding,
}
