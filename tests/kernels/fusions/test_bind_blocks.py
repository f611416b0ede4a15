import gc
import weakref

import numpy as np
import pytest
from xplm_numpy.kernels import FUSED

from tests.backends.numpy.layouts import shifted, spread
from tests.kernels.fusions.bounds import (
    EPS,
    assert_within,
    assert_written,
    attention_half,
    draw,
    draw_norm,
    make_cache,
    make_rows,
    mlp_half,
    stored,
)
from xplm.kernels.fusions.bind_blocks import BlockWeights
from xplm.kernels.parts.norms import LAYER, RMS, RMS_ONCE

FEW = {"C": 6, "F": 3, "H": 1, "K": 1, "D": 2}
"""Sizes of a block whose second norm of outputs the bounds of bfloat16 keep away from dividing by 0."""

CASES = {
    "few slots": {},
    "empty cache": {"start": 0, "bias": True},
    "several rows": {"B": 3, "C": 17, "K": 4, "F": 9},
    "window": {"start": 150, "windows": (70,), "bias": True},
    "rows of different lengths": {"starts": [40, 1]},
    "norms of heads": {"norms": True, "B": 2},
    "sinks and a cap": {"has_sinks": True, "cap": 0.7, "B": 2},
    "part of a head rotated": {"R": 4},
    "values of another width": {"Dv": 9, "bias": True},
    "parallel": {"is_parallel": True, "bias": True},
    "neighbours": {"R": 4, "pairs": "neighbours", "B": 2},
    "nothing rotated": {"tables": (None,), "norms": True},
    "all of it": {
        **{"starts": [3, 0, 70], "windows": (20,), "D": 10, "R": 6, "Dv": 7},
        **{"norms": True, "bias": True, "is_parallel": True, "has_sinks": True, "cap": 1.5},
    },
    "no table": {"tables": (None,), "has_tables": False},
    "Gemma 3's": {
        **{
            "norm_kind": RMS_ONCE,
            "norms": True,
            "has_output_norms": True,
            "mlp_activation": "gelu",
        },
        **{"B": 2, "windows": (3,), **FEW},
    },
    "GPT-2's": {
        **{"norm_kind": LAYER, "bias": True, "is_gated": False, "mlp_activation": "gelu"},
        **{"tables": (None,), "has_tables": False},
    },
    "output norms alone, a scale": {
        **{"has_norms": False, "has_output_norms": True, "branch_scale": 0.3, "B": 2, **FEW},
    },
    "several queries": {"T": 3},
    "several queries, different rows": {"T": 3, "starts": [4, 0], "is_parallel": True},
}


class Case:
    """Blocks, what they are given, and what they may give."""

    def __init__(
        self, activation, weight, *, start=5, starts=None, L=1, B=1, C=33, H=4, K=2, D=6, R=None, Dv=None, F=20,
        T=1, bias=False, norms=False, windows=None, is_parallel=False, cache=None, pairs="halves", tables=None,
        has_sinks=False, cap=None, norm_kind=RMS, has_norms=True, has_output_norms=False, is_gated=True,
        has_tables=True, mlp_activation="silu", branch_scale=1.0,
    ):  # fmt: skip
        """Random numbers, the same for the same arguments; a cache is stored like activations if not said otherwise."""
        rng = np.random.default_rng(52)
        self.starts = starts or [start] * B
        B, Dv = len(self.starts), Dv or D

        def linears(*shapes):
            weights = [draw(rng, weight, *shape, scale=shape[1] ** -0.5) for shape in shapes]
            return *weights, *[draw(rng, weight, n) if bias else None for n, _ in shapes]

        def norm(width, is_there=True):
            return draw_norm(rng, weight, norm_kind, width) if is_there else None

        def block(window, table):
            heads = linears((H * D, C), (K * D, C), (K * Dv, C), (C, H * Dv))
            own = [norm(D, norms) for _ in "qk"]
            mlp = linears((F, C), (F, C), (C, F))
            if not is_gated:
                mlp = (None, *mlp[1:3], None, *mlp[4:])
            sinks = draw(rng, weight, H) if has_sinks else None
            attention = (norm(C, has_norms), *heads, *own, sinks)
            halves = attention, (norm(C, has_norms), *mlp)
            outputs = norm(C, has_output_norms), norm(C, has_output_norms)
            return BlockWeights(*halves, window, is_parallel, table, pairs, outputs)

        angles = rng.uniform(0, 6, (2, B, 1, T, (R or D) // 2))
        windows = windows or L * (None,)
        pairs_of_facts = zip(windows, tables or len(windows) * (0,), strict=True)
        self.blocks = [block(*facts) for facts in pairs_of_facts]
        self.x = draw(rng, activation, B, T, C)
        cosines, sines = (f(angles).astype(np.float32) for f in (np.cos, np.sin))
        self.tables = [list(pair) for pair in zip(cosines, sines, strict=True)]  # of two kinds
        self.tables = self.tables if has_tables else []
        self.ends = {"branch_scale": branch_scale, "norm_kind": norm_kind}
        self.activation = mlp_activation
        self.scale, self.cap, self.island = D**-0.5, cap, np.dtype(np.float32)
        shape = (B, K, max(self.starts) + T + 30)
        self.before = [
            [draw(rng, cache or activation, *shape, width) for width in (D, Dv)]
            for _ in self.blocks
        ]

    def bind(self, fusions, blocks=slice(None)):
        """The blocks, or some of them, bound."""
        options = {"scale": self.scale, "cap": self.cap, "eps": EPS, "island": self.island}
        options |= self.ends | {"activation": self.activation}
        halves = {
            "attention_half": fusions["norm_attention_residual"],
            "mlp_half": fusions["norm_mlp_residual"],
        }
        return fusions["bind_blocks"](tuple(self.blocks[blocks]), **halves, **options)

    def change(self, layers, half, i, change):
        """One array of some layers becomes another."""
        for layer in layers:
            arrays = list(getattr(self.blocks[layer], half))
            arrays[i] = change(arrays[i])
            self.blocks[layer] = self.blocks[layer]._replace(**{half: tuple(arrays)})

    def by_halves(self, fusions):
        """The same without `bind_blocks`."""
        norm = {"eps": EPS, "island": self.island, **self.ends}

        def step(x, tables, caches, rows):
            for block, cache in zip(self.blocks, caches, strict=True):
                seen = {"window": block.window, "pairs": block.pairs, "cap": self.cap}
                cos, sin = (None, None) if block.table is None else tables[block.table]
                seen["scale"] = self.scale
                half = fusions["norm_attention_residual"]
                outputs, arrays = block.output_norms, (cos, sin, cache, rows)
                y = half(x, *block.attention, *arrays, outputs[0], **seen, **norm)
                read, half = x if block.is_parallel else y, fusions["norm_mlp_residual"]
                x = half(read, y, *block.mlp, outputs[1], activation=self.activation, **norm)
            return x

        return step

    def make_caches(self):
        """Copies of what the caches hold, to be written to."""
        return [make_cache(*pair) for pair in self.before]

    def run(self, step, caches):
        """y; caches are written to."""
        return step(self.x, self.tables, caches, make_rows(self.starts))

    def assert_right(self, step):
        """What a step gives and writes is within what the ops of its one block may be off by."""
        (block,), (before,), caches = self.blocks, self.before, self.make_caches()
        y = self.run(step, caches)
        x, (*weights, q_norm, k_norm, sinks) = stored(self.x), block.attention
        cos, sin = (None, None) if block.table is None else self.tables[block.table]
        between, written = attention_half(
            x, *weights, norms=(q_norm, k_norm), cos=cos, sin=sin, keys=before[0], values=before[1], sinks=sinks,
            starts=self.starts, scale=self.scale, window=block.window, pairs=block.pairs, cap=self.cap,
            output_norm=block.output_norms[0], **self.ends,
        )  # fmt: skip
        assert_written(caches[0][:2], before, written, self.starts)
        read = x if block.is_parallel else between
        ends = self.ends | {"activation": self.activation, "output_norm": block.output_norms[1]}
        assert_within(y, mlp_half(read, between, *block.mlp, **ends))

    def assert_same(self, step, other):
        """Two steps give and write the same, to the last bit."""
        results = [
            (self.run(each, own), own) for each in (step, other) for own in [self.make_caches()]
        ]
        (y, caches), (other_y, other_caches) = results
        np.testing.assert_array_equal(y, other_y)
        assert y.dtype == other_y.dtype
        for cache, other_cache in zip(caches, other_caches, strict=True):
            np.testing.assert_array_equal(cache.keys, other_cache.keys)
            np.testing.assert_array_equal(cache.values, other_cache.values)


@pytest.mark.parametrize("name", CASES)
def test_a_block_is_what_its_ops_are(fusions, dtypes, name):
    case = Case(*dtypes, **CASES[name])
    case.assert_right(case.bind(fusions))


@pytest.mark.nightly  # as is all below that compiles kernels for another mix of dtypes
def test_a_cache_of_another_dtype(fusions):
    case = Case("bfloat16", "bfloat16", cache="float32")
    case.assert_right(case.bind(fusions))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"windows": (None, 70, 1), "start": 150, "bias": True},
        {"starts": [0, 4], "is_parallel": True, "norms": True, "R": 4, "Dv": 5},
        {"tables": (1, None, 0), "windows": (None, 2, None), "pairs": "neighbours", "B": 2},
    ],
    ids=str,
)
def test_blocks_follow_one_another(fusions, dtypes, changes):
    case = Case(*dtypes, **{"L": 3} | changes)
    alone = [case.bind(fusions, slice(i, i + 1)) for i in range(3)]

    def one_by_one(x, tables, caches, rows):
        for step, cache in zip(alone, caches, strict=True):
            x = step(x, tables, [cache], rows)
        return x

    case.assert_same(case.bind(fusions), one_by_one)


def test_threads_and_runs_change_no_bit(fusions, dtypes, on_threads):
    case = Case(*dtypes, L=2, start=300, B=2, C=65)
    step = case.bind(fusions)
    for n in (1, 2):

        def on_other_threads(*arguments, n=n):
            return on_threads(n, step, *arguments)

        case.assert_same(step, on_other_threads)


def test_weights_are_read_where_they_lie(fusions):
    case = Case("float32", "float32")
    case.change([0], "mlp", 3, np.copy)
    step = case.bind(fusions)
    case.assert_right(step)
    case.blocks[0].mlp[3][:] *= 2
    case.assert_right(step)


def test_weights_live_as_long_as_what_is_bound_to_them(fusions):
    case = Case("float32", "float32", L=3)
    step = case.bind(fusions)
    weights = [weakref.ref(block.mlp[1]) for block in case.blocks]
    case.blocks = None
    gc.collect()
    assert all(weight() is not None for weight in weights)
    del step
    gc.collect()
    assert all(weight() is None for weight in weights)


def to(dtype):
    return lambda array: array.astype(dtype)


@pytest.mark.parametrize("layers", [[1], [0, 1, 2]], ids=["one of them", "all"])
@pytest.mark.parametrize(
    ("half", "i", "change"),
    [
        ("mlp", 1, spread),
        ("attention", 1, shifted),
        ("mlp", 3, np.asfortranarray),
        pytest.param("mlp", 2, to(np.float16), marks=pytest.mark.nightly),
        pytest.param("attention", 4, to("bfloat16"), marks=pytest.mark.nightly),
        ("mlp", 2, to(np.float64)),
    ],
    ids=["strided", "misaligned", "by columns", "float16", "bfloat16", "float64"],
)
def test_weights_that_kernels_do_not_take_go_by_halves(fusions, half, i, change, layers):
    case = Case("float32", "float32", L=3)
    case.change(layers, half, i, change)
    case.assert_same(case.bind(fusions), case.by_halves(fusions))


@pytest.mark.parametrize(
    ("half", "i", "change"),
    [
        pytest.param("attention", 0, to(np.float16), marks=pytest.mark.nightly),
        ("mlp", 4, lambda _: np.ones(20, np.float32)),
        ("attention", 9, lambda _: np.ones(6, np.float32)),
    ],
    ids=["a norm's dtype", "a bias", "a norm of heads"],
)
def test_blocks_that_differ_go_by_halves(fusions, half, i, change):
    case = Case("float32", "float32", L=3)
    case.change([1], half, i, change)
    case.assert_same(case.bind(fusions), case.by_halves(fusions))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda a: a.astype(np.float16), marks=pytest.mark.nightly),
        lambda a: a[:, :, :20].copy(),
        np.asfortranarray,
    ],
    ids=["a dtype", "a capacity", "by columns"],
)
def test_caches_that_differ_go_by_halves(fusions, change):
    case = Case("float32", "float32", L=3)
    step = case.bind(fusions)
    case.before[2][0] = change(case.before[2][0])
    case.assert_same(step, case.by_halves(fusions))


def test_a_half_may_be_a_function(fusions):
    """As that of a block with experts, which no fusion computes."""
    case, other = (Case("float32", "float32", L=3, is_parallel=True) for _ in "ab")
    arrays, half = case.blocks[1].mlp, fusions["norm_mlp_residual"]
    case.blocks[1] = case.blocks[1]._replace(mlp=lambda x, y: half(x, y, *arrays, eps=EPS))
    case.assert_same(case.bind(fusions), other.by_halves(fusions))


def test_float64_goes_by_halves(fusions):
    case = Case("float32", "float32", L=2)
    case.x = case.x.astype(np.float64)
    case.assert_same(case.bind(fusions), case.by_halves(fusions))
    for i in (0, 1):
        case = Case("float32", "float32", L=2)
        for pair in case.tables:
            pair[i] = pair[i].astype(np.float64)
        case.assert_same(case.bind(fusions), case.by_halves(fusions))

    case = Case("float32", "float32", L=2)
    case.before = [[array.astype(np.float64) for array in pair] for pair in case.before]
    case.assert_same(case.bind(fusions), case.by_halves(fusions))
    case = Case("float32", "float32", L=2)
    case.island = np.dtype(np.float64)
    case.assert_same(case.bind(fusions), case.by_halves(fusions))


def test_tables_of_different_widths_go_by_halves(fusions):
    case = Case("float32", "float32", tables=(0, 1), windows=(None, None))
    case.tables[1] = [table[..., :2].copy() for table in case.tables[1]]
    case.assert_same(case.bind(fusions), case.by_halves(fusions))


def test_a_block_has_a_cache(fusions):
    case = Case("float32", "float32", L=3)
    step, caches = case.bind(fusions), case.make_caches()
    for wrong in (caches[:2], [*caches, caches[0]]):
        with pytest.raises(ValueError, match="zip"):
            case.run(step, wrong)


def test_no_block_is_nothing(fusions):
    case = Case("float32", "float32")
    assert case.run(case.bind(fusions, slice(0)), []) is case.x


def test_several_queries_go_by_halves(fusions):
    case = Case("float32", "float32", L=2, T=3)
    case.assert_same(case.bind(fusions), case.by_halves(fusions))


def test_a_full_cache_is_not_written_to():
    case = Case("float32", "float32")
    step, caches = case.bind(FUSED), case.make_caches()
    case.starts = [36]
    with pytest.raises(AssertionError, match="as large as its capacity"):
        case.run(step, caches)
    for array, before in zip(caches[0][:2], case.before[0], strict=True):
        np.testing.assert_array_equal(array, before)
