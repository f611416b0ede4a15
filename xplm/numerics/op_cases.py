"""What every op is checked on: one row an op, with the arguments that have a gradient and cases that are easy to miss.

Each case says what is particular about it: leading axes, a length of 1, fewer key/value heads than query heads, a
window, padding, a row with nothing in it. Sizes within a case differ from one another, so that axes cannot be swapped
unnoticed. Arguments are host arrays in the forward kernel's order, floats in float64.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator

from xplm.kernels.rope import NEIGHBOURS, rope_tables
from xplm.rope_scaling import inverse_frequencies
from xplm.specs import RopeSpec


class OpCase(NamedTuple):
    label: str  # what is particular about it
    args: tuple[np.ndarray | None, ...]  # in the forward's order
    options: Mapping[str, Any] = {}  # keyword arguments of the forward
    tuning: Mapping[str, int] = {}  # sizes of chunks, of the portable kernels alone


class OpRow(NamedTuple):
    arguments: tuple[str, ...]  # the forward's arrays, in order
    gradients: tuple[str, ...]  # those of them that have a gradient
    make_cases: Callable[[Generator], list[OpCase]]


def op_cases(name: str, seed: int = 0) -> list[OpCase]:
    """The cases of an op, with numbers that depend on the seed."""
    return OPS[name].make_cases(np.random.default_rng(seed))


def _linear(rng: Generator) -> list[OpCase]:
    n = rng.standard_normal
    return [
        OpCase("two axes", (n((6, 5)), n((4, 5)))),
        OpCase("bias", (n((6, 5)), n((4, 5)), n(4))),
        OpCase("square, bias", (n((7, 5)), n((5, 5)), n(5))),
        OpCase("three axes, bias", (n((2, 3, 5)), n((4, 5)), n(4))),
        OpCase("one row", (n((1, 3)), n((2, 3)), n(2))),
    ]


def _rms_norm(rng: Generator) -> list[OpCase]:
    n = rng.standard_normal
    return [
        OpCase("two axes", (n((6, 5)), n(5)), {"eps": 1e-5}),
        OpCase("three axes", (n((2, 3, 7)), n(7)), {"eps": 1e-5}),
        OpCase("large eps", (n((3, 4)), n(4)), {"eps": 0.25}),
        OpCase("one feature", (n((3, 1)), n(1)), {"eps": 0.25}),
        OpCase("a weight for each head", (n((2, 3, 4, 5)), n((4, 5))), {"eps": 1e-5}),
    ]


def _layer_norm(rng: Generator) -> list[OpCase]:
    n = rng.standard_normal
    return [
        OpCase("two axes", (n((6, 5)), n(5), n(5)), {"eps": 1e-5}),
        OpCase("three axes", (n((2, 3, 7)), n(7), n(7)), {"eps": 1e-5}),
        OpCase("large mean", (10.0 + n((3, 6)), n(6), n(6)), {"eps": 1e-5}),
        OpCase("large eps", (n((3, 4)), n(4), n(4)), {"eps": 0.25}),
        OpCase("a weight for each head", (n((2, 3, 4, 5)), n((4, 5)), n((4, 5))), {"eps": 1e-5}),
    ]


def _softmax(rng: Generator) -> list[OpCase]:
    n = rng.standard_normal
    visible = rng.random((4, 7)) < 0.6
    visible[:, 2] = True
    visible[1] = False
    return [
        OpCase("two axes", (n((4, 7)),)),
        OpCase("four axes", (n((2, 3, 4, 5)),)),
        OpCase("large scores", (20.0 * n((3, 5)),)),
        OpCase("one entry", (n((3, 1)),)),
        OpCase("mask, a row of nothing", (n((4, 7)), visible)),
        OpCase("mask broadcast over heads", (n((2, 3, 4, 7)), visible[None, None])),
    ]


def _with_values(rng: Generator, qkv: tuple[np.ndarray, ...], width: int) -> tuple[np.ndarray, ...]:
    q, k, v = qkv
    return q, k, rng.standard_normal((*v.shape[:3], width))


def _attention(rng: Generator) -> list[OpCase]:
    n = rng.standard_normal

    def qkv(B: int, H: int, K: int, T: int, S: int, D: int) -> tuple[np.ndarray, ...]:
        return n((B, H, T, D)), n((B, K, S, D)), n((B, K, S, D))

    def options(D: int, start: int = 0, window: int | None = None) -> dict[str, Any]:
        return {"start": start, "scale": D**-0.5, "window": window}

    # In the second row the first slots are padding; its early queries see nothing.
    first = np.broadcast_to(np.array([[0], [2]]), (2, 6)).copy()
    return [
        OpCase("as many key heads", qkv(2, 3, 3, 5, 5, 7), options(7)),
        OpCase("one head", qkv(2, 1, 1, 4, 4, 6), options(6)),
        OpCase("K < H", qkv(2, 6, 2, 4, 4, 5), options(5)),
        OpCase("one key head", qkv(1, 3, 1, 5, 5, 2), options(2)),
        OpCase("one token", qkv(2, 2, 1, 1, 1, 3), options(3)),
        OpCase("window", qkv(1, 4, 2, 7, 7, 3), options(3, window=3)),
        OpCase("window of 1", qkv(1, 2, 2, 4, 4, 3), options(3, window=1)),
        OpCase("keys from a cache", qkv(1, 4, 2, 3, 8, 3), options(3, start=5)),
        OpCase("padding", (*qkv(2, 4, 2, 6, 6, 3), first), options(3)),
        OpCase("values of another width", _with_values(rng, qkv(1, 4, 2, 5, 5, 3), 4), options(3)),
        OpCase("padding, window", (*qkv(2, 4, 2, 6, 6, 3), first), options(3, window=2)),
        OpCase("another scale", qkv(1, 2, 1, 4, 4, 3), options(3) | {"scale": 0.3}),
        OpCase("chunks of 2", qkv(1, 4, 2, 5, 5, 3), options(3), {"query_rows": 2}),
        OpCase("chunks, window", qkv(1, 4, 2, 7, 9, 3), options(3, 2, 3), {"query_rows": 2}),
        OpCase("cap", qkv(2, 4, 2, 5, 5, 3), options(3) | {"cap": 0.5}),
        OpCase("cap, window", qkv(1, 4, 2, 6, 7, 3), options(3, 1, 3) | {"cap": 2.0}),
        OpCase("sinks", (*qkv(2, 4, 2, 5, 5, 3), None, n(4)), options(3)),
        OpCase("sinks, padding", (*qkv(2, 4, 2, 6, 6, 3), first, n(4)), options(3, window=4)),
        OpCase(
            "sinks, cap, chunks",
            (*qkv(1, 4, 2, 7, 9, 3), None, n(4)),
            options(3, 2, 5) | {"cap": 1.0},
            {"query_rows": 3},
        ),
    ]


def _rope(rng: Generator) -> list[OpCase]:
    def case(
        label: str,
        positions: np.ndarray,
        D: int,
        *fields: Any,
        dim: int | None = None,
        **options: Any,
    ) -> OpCase:
        factors = tuple(1.0 + np.arange((dim or D) // 2))
        rope = replace(
            RopeSpec(*fields, dim=dim or D, max_position_embeddings=8),
            short_factor=factors,
            long_factor=factors,
        )
        inv_freq, scale = inverse_frequencies(rope, length=int(positions.max()) + 1)
        cos, sin = rope_tables(positions, inv_freq, scale=scale, dtype=np.float64)
        x = rng.standard_normal((len(positions), 3, positions.shape[1], D))
        return OpCase(label, (x, cos, sin), options)

    near = np.arange(5)[None, :]
    far = 3000 + np.array([[0, 1, 2, 3], [0, 0, 0, 1]])
    return [
        case("default", near, 6),
        case("one pair", near, 2),
        case("rows of their own", far, 4),
        case("part of a head", near, 8, dim=4),
        case("neighbours", far, 6, pairs=NEIGHBOURS),
        case("neighbours in part of a head", near, 8, dim=4, pairs=NEIGHBOURS),
        case("linear", near, 6, "linear", 1e4, 4.0),
        case("dynamic", 9 + near, 6, "dynamic", 1e4, 4.0),
        case("yarn", near, 8, "yarn", 1e4, 4.0, 8),
        case("llama3", near, 8, "llama3", 1e4, 8.0, 8),
        case("longrope", near, 8, "longrope", 1e4, 8.0, 8),
    ]


def _gelu(rng: Generator) -> list[OpCase]:
    n = rng.standard_normal
    return [
        OpCase("two axes", (n((4, 7)),)),
        OpCase("three axes", (2.0 * n((2, 3, 5)),)),
        OpCase("large and zero", (np.array([[-30.0, -6.0, -1.0, 0.0, 1.0, 6.0, 30.0]]),)),
    ]


def _relu(rng: Generator) -> list[OpCase]:
    def away(*shape: int) -> np.ndarray:  # from the kink at 0
        x = rng.standard_normal(shape)
        return x + np.copysign(0.1, x)

    return [
        OpCase("two axes", (away(4, 7),)),
        OpCase("three axes", (2.0 * away(2, 3, 5),)),
        OpCase("large and small", (np.array([[-300.0, -2.0, -0.01, 0.01, 2.0, 300.0]]),)),
    ]


def _swiglu(rng: Generator) -> list[OpCase]:
    n = rng.standard_normal
    return [
        OpCase("two axes", (n((4, 7)), n((4, 7)))),
        OpCase("three axes", (2.0 * n((2, 3, 5)), n((2, 3, 5)))),
        OpCase("large and zero", (np.array([[-90.0, -5.0, 0.0, 5.0, 90.0]]), n((1, 5)))),
    ]


def _clamped_swiglu(rng: Generator) -> list[OpCase]:
    n, options = rng.standard_normal, {"alpha": 1.702, "limit": 0.75}
    ends = (np.array([[-90.0, -5.0, 0.0, 5.0, 90.0]]), np.array([[0.5, -2.0, 1.0, 2.0, 0.0]]))
    return [
        OpCase("two axes", (n((4, 7)), n((4, 7))), options),
        OpCase("three axes", (2.0 * n((2, 3, 5)), n((2, 3, 5))), options),
        OpCase("large and zero", ends, options),
        OpCase("nothing is clamped", (n((3, 4)), n((3, 4))), {"alpha": 0.5, "limit": 16.0}),
    ]


def _sigmoid_gate(rng: Generator) -> list[OpCase]:
    n = rng.standard_normal
    return [
        OpCase("a gate for each number", (n((4, 7)), n((4, 7)))),
        OpCase("a gate for each row", (n((4, 1)), n((4, 5)))),
        OpCase("three axes", (n((2, 3, 1)), n((2, 3, 4)))),
        OpCase("large and zero", (np.array([[-90.0, -5.0, 0.0, 5.0, 90.0]]), n((1, 5)))),
    ]


def _router(rng: Generator) -> list[OpCase]:
    def case(
        label: str, N: int, E: int, k: int, scores: str, *, by_sum: bool, factor: float = 1.0
    ) -> OpCase:
        chosen = np.argsort(rng.random((N, E)), axis=1)[:, :k]
        options = {"scores": scores, "is_normalised": by_sum, "factor": factor}
        return OpCase(label, (rng.standard_normal((N, E)), chosen), options)

    return [
        case("softmax", 4, 6, 2, "softmax", by_sum=False),
        case("softmax, divided by their sum", 4, 5, 3, "softmax", by_sum=True),
        case("softmax, a factor", 3, 5, 2, "softmax", by_sum=False, factor=2.5),
        case("one chosen", 3, 4, 1, "softmax", by_sum=False),
        case("one chosen, divided by itself", 3, 4, 1, "softmax", by_sum=True),
        case("all chosen", 2, 3, 3, "softmax", by_sum=False),
        case("sigmoid", 4, 6, 2, "sigmoid", by_sum=False),
        case(
            "sigmoid, divided by their sum, a factor", 4, 5, 3, "sigmoid", by_sum=True, factor=2.5
        ),
    ]


def _expert_linear(rng: Generator) -> list[OpCase]:
    def case(label: str, *counts: int, bias: bool = False) -> OpCase:
        n, E = rng.standard_normal, len(counts)
        given = (n((sum(counts), 5)), n((E, 4, 5)), *((n((E, 4)),) if bias else ()))
        return OpCase(label, given, {"counts": counts})

    return [
        case("three experts", 2, 1, 3),
        case("bias", 2, 1, 3, bias=True),
        case("an expert without rows, bias", 2, 0, 3, bias=True),
        case("one expert has all, bias", 0, 4, 0, bias=True),
        case("one row", 0, 0, 1),
    ]


def _expert_sum(rng: Generator) -> list[OpCase]:
    def case(label: str, N: int, k: int, *, weights: bool = True) -> OpCase:
        n = rng.standard_normal
        given = (n((N * k, 5)), rng.permutation(N * k).reshape(N, k))
        return OpCase(label, (*given, n((N, k))) if weights else given)

    return [
        case("two rows a token", 4, 2),
        case("three rows a token", 3, 3),
        case("one row a token", 4, 1),
        case("without weights", 4, 2, weights=False),
    ]


def _embedding(rng: Generator) -> list[OpCase]:
    n = rng.standard_normal
    return [
        OpCase("one axis", (np.array([4, 1, 3, 0]), n((6, 3)))),
        OpCase("repeated ids", (np.array([[1, 3, 3, 5], [0, 1, 3, 3]]), n((6, 4)))),
        OpCase("two chunks of ids", (rng.permutation(300), n((300, 1)))),
    ]


def _dropout(rng: Generator) -> list[OpCase]:
    n = rng.standard_normal
    return [
        OpCase("a third", (n((4, 7)), rng.random((4, 7)) >= 0.3), {"rate": 0.3}),
        OpCase("most", (n((2, 3, 5)), rng.random((2, 3, 5)) >= 0.8), {"rate": 0.8}),
        OpCase("nothing", (n((2, 3)), np.ones((2, 3), bool)), {"rate": 0.0}),
    ]


IGNORE = -100
LOSS_OPTIONS: list[tuple[str, dict[str, float]]] = [
    ("", {}),
    (", label smoothing", {"label_smoothing": 0.1}),
    (", z-loss", {"z_loss": 0.05}),
    (", both", {"label_smoothing": 0.2, "z_loss": 0.05}),
]


SCALE_AND_CAP = {"logit_scale": 0.6, "logit_cap": 2.0}


def _cross_entropy(rng: Generator) -> list[OpCase]:
    n = rng.standard_normal
    targets = np.array([1, 4, IGNORE, 0, 6])
    return [OpCase("all scored", (n((4, 6)), np.array([5, 0, 3, 3])), {"ignore_index": IGNORE})] + [
        OpCase(f"one ignored{label}", (n((5, 7)), targets), {"ignore_index": IGNORE} | options)
        for label, options in LOSS_OPTIONS
    ]


def _linear_cross_entropy(rng: Generator) -> list[OpCase]:
    all_scored, one_ignored = np.array([5, 0, 3, 3]), np.array([1, 4, IGNORE, 0, 6])

    def case(
        label: str, targets: np.ndarray, V: int, options: Mapping[str, float], *, bias: bool = False
    ) -> OpCase:
        n = rng.standard_normal
        arrays = (n((len(targets), 3)), n((V, 3)), targets)
        given = (*arrays, n(V)) if bias else arrays
        return OpCase(label, given, {"ignore_index": IGNORE, **options})

    both = LOSS_OPTIONS[-1][1]
    return [
        case("all scored", all_scored, 6, {}),
        *(case(f"one ignored{label}", one_ignored, 7, options) for label, options in LOSS_OPTIONS),
        case("bias, all scored", all_scored, 6, {}, bias=True),
        case("bias, one ignored", one_ignored, 7, {}, bias=True),
        case("bias, one ignored, both", one_ignored, 7, both, bias=True),
        case("scaled, bias", one_ignored, 7, {"logit_scale": 0.3}, bias=True),
        case("capped", one_ignored, 7, {"logit_cap": 1.5}),
        case("scaled and capped, bias", one_ignored, 7, both | SCALE_AND_CAP, bias=True),
    ]


OPS: dict[str, OpRow] = {
    "embedding": OpRow(("ids", "weight"), ("weight",), _embedding),
    "linear": OpRow(("x", "weight", "bias"), ("x", "weight", "bias"), _linear),
    "rms_norm": OpRow(("x", "weight"), ("x", "weight"), _rms_norm),
    "layer_norm": OpRow(("x", "weight", "bias"), ("x", "weight", "bias"), _layer_norm),
    "rope": OpRow(("x", "cos", "sin"), ("x",), _rope),
    "softmax": OpRow(("x", "visible"), ("x",), _softmax),
    "attention": OpRow(("q", "k", "v", "first", "sinks"), ("q", "k", "v", "sinks"), _attention),
    "swiglu": OpRow(("gate", "up"), ("gate", "up"), _swiglu),
    "gelu": OpRow(("x",), ("x",), _gelu),
    "gelu_erf": OpRow(("x",), ("x",), _gelu),
    "relu": OpRow(("x",), ("x",), _relu),
    "relu2": OpRow(("x",), ("x",), _relu),
    "clamped_swiglu": OpRow(("gate", "up"), ("gate", "up"), _clamped_swiglu),
    "sigmoid_gate": OpRow(("gate", "x"), ("gate", "x"), _sigmoid_gate),
    "router": OpRow(("logits", "chosen"), ("logits",), _router),
    "expert_linear": OpRow(("x", "weight", "bias"), ("x", "weight", "bias"), _expert_linear),
    "expert_sum": OpRow(("rows", "places", "weights"), ("rows", "weights"), _expert_sum),
    "dropout": OpRow(("x", "keep"), ("x",), _dropout),
    "cross_entropy": OpRow(("x", "targets"), ("x",), _cross_entropy),
    "linear_cross_entropy": OpRow(
        ("x", "weight", "targets", "bias"), ("x", "weight", "bias"), _linear_cross_entropy
    ),
}
"""Every op of `xplm.kernels`, in the order in which a decoder meets them."""
