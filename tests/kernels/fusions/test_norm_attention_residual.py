import numpy as np
import pytest
from xplm_numpy.kernels import FUSED

from tests.backends.numpy.layouts import shifted, spread
from tests.kernels.fusions.bounds import (
    EPS,
    assert_within,
    assert_written,
    attention_half,
    cache_of,
    draw,
    draw_norm,
    make_cache,
    make_rows,
    stored,
)
from xplm.kernels.fusions import FUSIONS
from xplm.kernels.parts.norms import LAYER, RMS, RMS_ONCE
from xplm.precision import HOST_DTYPES

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
    "rows of different lengths": {"starts": [140, 1, 10]},
    "rows and window": {"starts": [20, 297, 140], "window": 150},
    "an empty row": {"starts": [5, 0], "bias": True},
    "norms of heads": {"start": 9, "B": 2, "norms": True},
    "sinks": {"start": 9, "B": 2, "has_sinks": True},
    "sinks of an empty cache, window": {"start": 0, "has_sinks": True, "window": 2},
    "a cap": {"start": 140, "cap": 0.7},
    "part of a head rotated": {"start": 7, "D": 10, "R": 4},
    "narrower values": {"start": 40, "D": 8, "Dv": 5, "bias": True},
    "wider values": {"start": 12, "D": 4, "Dv": 9},
    "all of it": {
        **{"starts": [3, 70, 0], "D": 10, "R": 6, "Dv": 7},
        **{"norms": True, "bias": True, "window": 20, "cap": 1.5, "has_sinks": True},
    },
    "tables of one row": {"start": 4, "B": 4, "C": 17, "K": 4, "tables": 1},
    "wide heads": {"start": 20, "D": 80, "H": 1, "K": 1},
    "several queries": {"start": 4, "T": 3},
    "several queries, different rows": {
        **{"starts": [4, 0, 9], "T": 3, "D": 8, "R": 4, "Dv": 5},
        **{"norms": True, "window": 4, "cap": 0.5, "has_sinks": True},
    },
    "neighbours": {"start": 9, "R": 4, "pairs": "neighbours", "B": 2},
    "nothing rotated": {"start": 9, "rotates": False, "norms": True},
    "no norm": {"start": 9, "has_norm": False},
    "an output norm alone, a scale": {
        **{"start": 3, "has_norm": False, "has_output_norm": True, "branch_scale": 0.3},
    },
    "rounded once": {
        **{"start": 3, "B": 2, "norm_kind": RMS_ONCE, "norms": True, "has_output_norm": True},
    },
    "layer norms": {"start": 9, "B": 2, "norm_kind": LAYER, "norms": True, "bias": True},
    "a norm of each head": {"start": 5, "B": 2, "norms": "each head"},
    "a norm of all heads": {"start": 5, "B": 2, "norms": "all heads"},
    "layer norms of each head": {"starts": [2, 9], "norm_kind": LAYER, "norms": "each head"},
    "several queries, norms of another kind": {
        **{"T": 3, "start": 2, "norm_kind": RMS_ONCE, "norms": "all heads"},
        **{"has_output_norm": True, "branch_scale": 0.7},
    },
}


@pytest.fixture(params=KINDS, ids="-".join)
def kind(request):
    """Three dtypes."""
    return request.param


def make_case(
    kind, *, start=0, B=1, starts=None, C=33, H=4, K=2, D=6, R=None, Dv=None, T=1, bias=False, norms=False,
    window=None, tables=None, pairs="halves", rotates=True, cap=None, has_sinks=False, has_norm=True,
    has_output_norm=False, branch_scale=1.0, norm_kind=RMS,
):  # fmt: skip
    """A fusion's arrays, keys and values among them in place of a cache, and its options, `starts` among them."""
    rng = np.random.default_rng(50)
    activation, weight, cache = kind
    starts = starts or [start] * B
    B, Dv = len(starts), Dv or D
    outputs = (H * D, K * D, K * Dv)
    angles = rng.uniform(0, 6, (tables or B, 1, T, (R or D) // 2))
    of_heads = {"each head": ((H, D), (K, D)), "all heads": ((H * D,), (K * D,))}
    of_heads = of_heads.get(norms, ((D,), (D,)))
    arrays = [
        draw(rng, activation, B, T, C),
        draw_norm(rng, weight, norm_kind, C) if has_norm else None,
        *[draw(rng, weight, n, C, scale=C**-0.5) for n in outputs],
        draw(rng, weight, C, H * Dv, scale=(H * Dv) ** -0.5),
        *[draw(rng, weight, n) if bias else None for n in (*outputs, C)],
        *[draw_norm(rng, weight, norm_kind, *shape) if norms else None for shape in of_heads],
        draw(rng, weight, H) if has_sinks else None,
        *[f(angles).astype(np.float32) if rotates else None for f in (np.cos, np.sin)],
        *[draw(rng, cache, B, K, max(starts) + T + 30, width) for width in (D, Dv)],
    ]
    seen = {"scale": D**-0.5, "window": window, "pairs": pairs, "cap": cap}
    ends = {
        "output_norm": draw_norm(rng, weight, norm_kind, C) if has_output_norm else None,
        "branch_scale": branch_scale,
        "norm_kind": norm_kind,
    }
    return arrays, {"starts": starts, **seen, **ends}


def run(fusion, arrays, options, *, cache=None, island=FLOAT32):
    """(y, LayerCache) of a case."""
    *before, keys, values = arrays
    cache = cache or make_cache(keys, values)
    rows, seen = make_rows(options["starts"]), {k: options[k] for k in options if k != "starts"}
    return fusion(*before, cache, rows, **seen, eps=EPS, island=island), cache


def assert_is_composition(found, arrays, options):
    """y, what is in the slots that were written, and that no other slot has changed."""
    x, *weights = arrays[:10]
    named = dict(zip(("cos", "sin", "keys", "values"), arrays[13:], strict=True))
    own = {"norms": arrays[10:12], "sinks": arrays[12]}
    expected, written = attention_half(stored(x), *weights, **own, **named, **options)
    y, cache = found
    assert_within(y, expected)
    assert_written(cache[:2], (named["keys"], named["values"]), written, options["starts"])


@pytest.mark.parametrize("case", CASES)
def test_is_what_its_ops_are(fusions, kind, case):
    arrays, options = make_case(kind, **CASES[case])
    found = run(fusions["norm_attention_residual"], arrays, options)
    assert_is_composition(found, arrays, options)


def test_an_island_in_float64_is_the_compositions(kind):
    arrays, options = make_case(kind, start=9, B=2)
    results = []
    for table in (FUSED, FUSIONS):
        fusion, island = table["norm_attention_residual"], np.dtype(np.float64)
        y, cache = run(fusion, arrays, options, island=island)
        results.append((y, *cache[:2]))
    for array, expected in zip(*results, strict=True):
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("case", ["the longest blocks", "rows and window"])
def test_threads_and_runs_change_no_bit(fusions, kind, on_threads, case):
    arrays, options = make_case(kind, **CASES[case])
    fusion = fusions["norm_attention_residual"]
    once, *others = (on_threads(n, run, fusion, arrays, options) for n in (1, 2, 2))
    for other in others:
        np.testing.assert_array_equal(once[0], other[0])
        for one, two in zip(once[1][:2], other[1][:2], strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    "odd", [{3: "bfloat16", 16: "float16"}, {15: "float64", 16: "float64"}, {16: "float64"}]
)
def test_weights_and_caches_of_several_dtypes(fusions, odd):
    arrays, options = make_case(KINDS[0], start=9, B=2)
    for i, dtype in odd.items():
        arrays[i] = arrays[i].astype(dtype)
    assert_is_composition(run(fusions["norm_attention_residual"], arrays, options), arrays, options)


def test_starts_of_32_bits(fusions):
    arrays, options = make_case(KINDS[0], starts=[9, 4])
    *before, keys, values = arrays
    cache, rows = make_cache(keys, values), make_rows([9, 4])
    rows = rows._replace(starts=rows.starts.astype(np.int32))
    seen = {"scale": options["scale"], "eps": EPS, "island": FLOAT32}
    y = fusions["norm_attention_residual"](*before, cache, rows, **seen)
    assert_is_composition((y, cache), arrays, options)


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
    whole = [np.concatenate([a, a], axis=1) for a in arrays[15:]]
    part = cache_of(*[a[:, :2] for a in whole])
    found = run(fusions["norm_attention_residual"], arrays, options, cache=part)
    assert_is_composition(found, arrays, options)
    for array, before in zip(whole, arrays[15:], strict=True):
        np.testing.assert_array_equal(array[:, 2:], before)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_slots_after_a_rows_last_are_not_read(fusions, dtype):
    arrays, options = make_case((dtype, dtype, dtype), starts=[9, 2])
    for i in (15, 16):
        arrays[i] = arrays[i].copy()
        arrays[i][0, :, 10:] = arrays[i][1, :, 3:] = np.array(np.nan, HOST_DTYPES[dtype])
    y, _ = run(fusions["norm_attention_residual"], arrays, options)
    assert np.isfinite(y.astype(np.float32)).all()
