"""Cases for fused kernels: those of every op, and sizes that end within a block, at its edge, and after several."""

import numpy as np

from xplm.numerics.op_cases import OPS, OpCase, op_cases

IGNORE = -100


def fused_cases(op):
    """The op's own cases, and those that its blocks are cut at."""
    return op_cases(op) + list(BLOCKS.get(op, lambda rng: [])(np.random.default_rng(5)))


def _attention(rng):
    def case(label, B, H, K, T, S, D, *, start=0, window=None, first=None, cap=None, sinks=False):
        q, k, v = (rng.standard_normal(s) for s in ((B, H, T, D), (B, K, S, D), (B, K, S, D)))
        options = {"start": start, "scale": D**-0.5, "window": window, "cap": cap}
        return OpCase(label, (q, k, v, first, rng.standard_normal(H) if sinks else None), options)

    padded_blocks = np.array([[3], [270]])
    padded = np.broadcast_to(np.array([[0], [67]]), (2, 70)).copy()
    return [
        case("one row more than a block", 1, 2, 1, 65, 65, 16),
        case("a block to the row", 2, 2, 2, 64, 64, 32),
        case("three blocks, a window", 1, 2, 1, 150, 150, 8, window=40),
        case("a chunk after a cache", 1, 4, 2, 33, 130, 17, start=97),
        case("one query, keys of two blocks", 1, 4, 2, 1, 300, 8, start=299),
        case("a window of two blocks of three", 1, 4, 2, 3, 600, 8, start=597, window=300),
        case("one query, padding of a block", 2, 2, 1, 1, 300, 8, start=299, first=padded_blocks),
        case("padding longer than a block", 2, 2, 1, 70, 70, 8, first=padded),
        case("slots after the last query", 1, 2, 1, 5, 9, 4, start=2),
        case("cap and sinks", 1, 4, 2, 70, 70, 8, window=66, cap=1.5, sinks=True),
        case("cap and sinks, padding", 2, 2, 1, 70, 70, 8, first=padded, cap=1.5, sinks=True),
        case("one query, cap and sinks", 1, 4, 2, 1, 300, 8, start=299, cap=1.5, sinks=True),
    ]


def _rows(rng):
    return [(rng.standard_normal((R, 13)), rng.standard_normal(13)) for R in (64, 65, 130)]


def _rms_norm(rng):
    return [OpCase(f"{len(x)} rows", (x, w), {"eps": 1e-5}) for x, w in _rows(rng)]


def _layer_norm(rng):
    return [OpCase(f"{len(x)} rows", (x, w, w[::-1].copy()), {"eps": 1e-5}) for x, w in _rows(rng)]


def _two_blocks(rng):
    return rng.standard_normal((2, 101, 163))  # 32,926 numbers: two blocks and a rest


def _gelu(rng):
    return [OpCase("two blocks and a rest", (_two_blocks(rng),))]


def _swiglu(rng):
    return [OpCase("two blocks and a rest", (_two_blocks(rng), _two_blocks(rng)))]


def _dropout(rng):
    x = _two_blocks(rng)
    return [OpCase("two blocks and a rest", (x, rng.random(x.shape) >= 0.3), {"rate": 0.3})]


def _rope(rng):
    def case(label, B, H, T, D, **options):
        angles = rng.uniform(0, 100, (B, 1, T, D // 2))
        x = rng.standard_normal((B, H, T, D))
        return OpCase(label, (x, np.cos(angles), np.sin(angles)), options)

    return [
        case("many rows", 3, 4, 90, 34),
        case("one token", 1, 2, 1, 4),
        case("many rows, neighbours", 3, 4, 90, 34, pairs="neighbours"),
    ]


def _embedding(rng):
    return [OpCase("two blocks of columns", (rng.integers(0, 5, 40), rng.standard_normal((9, 70))))]


def _logits(rng, N, V):
    targets = rng.integers(0, V, N)
    targets[::3] = IGNORE
    return 4.0 * rng.standard_normal((N, V)), targets


def _cross_entropy(rng):
    options = {"ignore_index": IGNORE, "label_smoothing": 0.1, "z_loss": 0.01}
    sizes = [(1, 16), (17, 15), (40, 35)]
    return [OpCase(f"{N} rows of {V}", _logits(rng, N, V), options) for N, V in sizes]


def _linear_cross_entropy(rng):
    _, targets = _logits(rng, 40, 35)
    x, weight = rng.standard_normal((40, 9)), rng.standard_normal((35, 9))
    bias = rng.standard_normal(35)
    options = {"ignore_index": IGNORE}
    return [
        OpCase("no row is scored", (x, weight, np.full_like(targets, IGNORE)), options),
        OpCase("every row is scored", (x, weight, np.abs(targets) % 35), options),
        OpCase("some rows are scored", (x, weight, targets), options),
        OpCase(
            "a bias, no row is scored", (x, weight, np.full_like(targets, IGNORE), bias), options
        ),
        OpCase("a bias, some rows are scored", (x, weight, targets, bias), options),
    ]


def _linear(rng):
    x, weight = rng.standard_normal((130, 129)), rng.standard_normal((131, 129))
    return [OpCase("two pieces of BLAS's", (x, weight, rng.standard_normal(131)))]


BLOCKS = {
    "linear": _linear,
    "attention": _attention,
    "rms_norm": _rms_norm,
    "layer_norm": _layer_norm,
    "gelu": _gelu,
    "swiglu": _swiglu,
    "dropout": _dropout,
    "rope": _rope,
    "embedding": _embedding,
    "cross_entropy": _cross_entropy,
    "linear_cross_entropy": _linear_cross_entropy,
}
assert BLOCKS.keys() <= OPS.keys()
