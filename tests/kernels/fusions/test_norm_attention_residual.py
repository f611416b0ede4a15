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
    make_cache,
    stored,
)
from xplm.kernels.fusions import FUSIONS
from xplm.precision import HOST_DTYPES
from xplm.typing import LayerCache

FLOAT32 = np.dtype(np.float32)

KINDS = [
    ("float32", "float32", "float32"),
    ("bfloat16", "bfloat16", "bfloat16"),
    pytest.param(("float16", "float16", "float16"), marks=pytest.mark.nightly),
    pytest.param(("float32", "bfloat16", "float32"), marks=pytest.mark.nightly),
    pytest.param(("bfloat16", "bfloat16", "float32"), marks=pytest.mark.nightly),
]
"""Activations, weights, cache; each kind is compiled anew."""

CASES = {
    "empty cache": {"start": 0},
    "one number": {"start": 0, "C": 1, "H": 1, "K": 1, "D": 2},
    "few slots": {"start": 2, "B": 7, "C": 64, "H": 3, "K": 1, "D": 10},
    "blocks of one length": {"start": 127, "bias": True},
    "a last block of one slot": {"start": 128, "B": 2},
    "the longest blocks": {"start": 1030, "H": 6, "K": 2},
    "window": {"start": 300, "window": 70, "bias": True},
    "window of one": {"start": 200, "window": 1, "B": 2},
    "padding": {"start": 140, "B": 3, "first": [0, 139, 130]},
    "padding and window": {"start": 300, "B": 2, "first": [280, 3], "window": 150},
    "a row that sees nothing": {"start": 5, "B": 2, "first": [0, 6], "bias": True},
    "tables of one row": {"start": 4, "B": 4, "C": 17, "K": 4, "tables": 1},
    "wide heads": {"start": 20, "D": 80, "H": 1, "K": 1},
    "several queries": {"start": 4, "T": 3},
}


@pytest.fixture(params=KINDS, ids="-".join)
def kind(request):
    """Three dtypes."""
    return request.param


def make_case(
    kind, *, start, B=1, C=33, H=4, K=2, D=6, T=1, bias=False, first=None, window=None, tables=None
):  # fmt: skip
    """A fusion's arrays, keys and values among them in place of a cache, and its options."""
    rng = np.random.default_rng(50)
    activation, weight, cache = kind
    outputs = (H * D, K * D, K * D)
    angles = rng.uniform(0, 6, (tables or B, 1, T, D // 2))
    arrays = [
        draw(rng, activation, B, T, C),
        draw(rng, weight, C),
        *[draw(rng, weight, n, C, scale=C**-0.5) for n in outputs],
        draw(rng, weight, C, H * D, scale=(H * D) ** -0.5),
        *[draw(rng, weight, n) if bias else None for n in (*outputs, C)],
        np.cos(angles).astype(np.float32),
        np.sin(angles).astype(np.float32),
        *[draw(rng, cache, B, K, start + T + 30, D) for _ in range(2)],
        None if first is None else np.broadcast_to(np.array(first)[:, None], (B, T)).copy(),
    ]
    return arrays, {"start": start, "scale": D**-0.5, "window": window}


def run(fusion, arrays, options):
    """(y, LayerCache) of a case."""
    *before, keys, values, first = arrays
    cache = make_cache(keys, values, options["start"])
    return fusion(*before, cache, first, **options, eps=EPS, island=FLOAT32), cache


def assert_is_composition(found, arrays, options):
    """y, what is in the slots that were written, and that no other slot has changed."""
    x, *weights = arrays[:10]
    named = dict(zip(("cos", "sin", "keys", "values", "first"), arrays[10:], strict=True))
    expected, written = attention_half(stored(x), *weights, **named, **options)
    y, cache = found
    assert_within(y, expected)
    assert_written(cache[:2], (named["keys"], named["values"]), written, options["start"])


@pytest.mark.parametrize("case", CASES)
def test_is_what_its_ops_are(fusions, kind, case):
    arrays, options = make_case(kind, **CASES[case])
    found = run(fusions["norm_attention_residual"], arrays, options)
    assert_is_composition(found, arrays, options)


def test_an_island_in_float64_is_the_compositions(kind):
    arrays, options = make_case(kind, start=9, B=2)
    results = []
    for table in (FUSED, FUSIONS):
        *before, keys, values, first = arrays
        cache = make_cache(keys, values, options["start"])
        island = np.dtype(np.float64)
        fusion = table["norm_attention_residual"]
        y = fusion(*before, cache, first, **options, eps=EPS, island=island)
        results.append((y, *cache[:2]))
    for array, expected in zip(*results, strict=True):
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("case", ["the longest blocks", "padding and window"])
def test_threads_and_runs_change_no_bit(fusions, kind, on_threads, case):
    arrays, options = make_case(kind, **CASES[case])
    fusion = fusions["norm_attention_residual"]
    once, *others = (on_threads(n, run, fusion, arrays, options) for n in (1, 2, 2))
    for other in others:
        np.testing.assert_array_equal(once[0], other[0])
        for one, two in zip(once[1][:2], other[1][:2], strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    "odd", [{3: "bfloat16", 13: "float16"}, {12: "float64", 13: "float64"}, {13: "float64"}]
)
def test_weights_and_caches_of_several_dtypes(fusions, odd):
    arrays, options = make_case(KINDS[0], start=9, B=2)
    for i, dtype in odd.items():
        arrays[i] = arrays[i].astype(dtype)
    assert_is_composition(run(fusions["norm_attention_residual"], arrays, options), arrays, options)


def test_first_slots_of_any_integers(fusions):
    arrays, options = make_case(KINDS[0], start=9, B=2, first=[3, 0])
    for dtype in (np.int32, np.uint64):
        arrays[14] = np.broadcast_to(arrays[14].astype(dtype)[:, :1], (2, 1))
        found = run(fusions["norm_attention_residual"], arrays, options)
        assert_is_composition(found, arrays, options)


def test_nan_stays_nan(fusions):
    arrays, options = make_case(KINDS[0], start=9)
    arrays[2] = np.full_like(arrays[2], np.nan)
    y, _ = run(fusions["norm_attention_residual"], arrays, options)
    assert np.isnan(y).all()


def test_strided_and_misaligned_input(fusions):
    arrays, options = make_case(KINDS[1], start=6, B=2)
    x, norm, q, k, *rest = arrays
    odd = [spread(x), spread(norm), shifted(q), np.asfortranarray(k), *rest]
    assert_is_composition(run(fusions["norm_attention_residual"], odd, options), arrays, options)


def test_a_cache_that_is_part_of_an_array(fusions):
    arrays, options = make_case(KINDS[0], start=9, B=2)
    *before, keys, values, first = arrays
    whole = make_cache(*[np.concatenate([a, a], axis=1) for a in (keys, values)], 9)
    part = LayerCache(
        whole.keys[:, :2], whole.values[:, :2], lambda k, v: [a[:, :2] for a in both(k, v)]
    )

    def both(k, v):
        return whole.write(*[np.concatenate([a, b], axis=1) for a, b in ((k, k), (v, v))])

    y = fusions["norm_attention_residual"](*before, part, first, **options, eps=EPS)
    assert_is_composition((y, part), arrays, options)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_slots_after_the_last_are_not_read(fusions, dtype):
    arrays, options = make_case((dtype, dtype, dtype), start=9)
    for i in (12, 13):
        arrays[i] = arrays[i].copy()
        arrays[i][:, :, 10:] = np.array(np.nan, HOST_DTYPES[dtype])
    y, _ = run(fusions["norm_attention_residual"], arrays, options)
    assert np.isfinite(y.astype(np.float32)).all()
