import numpy as np
import pytest

from tests.kernels.fusions.bounds import assert_within, draw, joined, linear, plus, rounded, stored
from xplm.numerics.parity.attention_bounds import attention_fwd

CASES = {
    "empty cache": {"start": 0},
    "one block": {"start": 127, "bias": True},
    "a block and a slot": {"start": 128, "B": 2},
    "many": {"start": 700, "H": 6, "K": 2},
    "window": {"start": 300, "window": 70},
    "window of one": {"start": 200, "window": 1, "B": 2},
    "padding": {"start": 140, "B": 3, "first": [0, 139, 130]},
    "padding and window": {"start": 300, "B": 2, "first": [280, 3], "window": 150},
    "a row that sees nothing": {"start": 5, "B": 2, "first": [0, 6]},
    "wide heads": {"start": 20, "D": 80, "H": 1, "K": 1},
    "several queries": {"start": 4, "T": 3},
}


def make_arguments(
    dtypes, cache, *, start, B=1, H=4, K=2, D=6, T=1, bias=False, first=None, window=None
):
    C = 10
    rng = np.random.default_rng(52)
    activation, weight = dtypes
    memory = [draw(rng, cache, B, K, start + T + 30, D) for _ in range(2)]
    arrays = [
        draw(rng, activation, B, T, C),
        draw(rng, activation, B, H, T, D),
        *[array[:, :, : start + T, :] for array in memory],
        draw(rng, weight, C, H * D, scale=(H * D) ** -0.5),
        draw(rng, weight, C) if bias else None,
        None if first is None else np.broadcast_to(np.array(first)[:, None], (B, T)).copy(),
    ]
    return arrays, {"start": start, "scale": D**-0.5, "window": window}


def expected(x, q, k, v, weight, bias, first, **options):
    heads = attention_fwd((q, k, v, first), options | {"wide": np.dtype(np.float32)})
    heads = rounded(heads.ball, q.dtype)
    return plus(stored(x), linear(joined(heads), weight, bias))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("is_narrow", [True, False], ids=["compute dtype", "float32"])
def test_is_what_its_ops_are(fusions, dtypes, is_narrow, case):
    cache = dtypes[0] if is_narrow else "float32"
    arrays, options = make_arguments(dtypes, cache, **CASES[case])
    actual = fusions["attention_residual"](*arrays, **options, wide=np.dtype(np.float32))
    assert_within(actual, expected(*arrays, **options))


@pytest.mark.parametrize("case", ["many", "padding and window"])
def test_threads_and_runs_change_no_bit(fusions, dtypes, on_threads, case):
    arrays, options = make_arguments(dtypes, dtypes[0], **CASES[case])
    fusion = fusions["attention_residual"]
    once, *others = (on_threads(n, fusion, *arrays, **options) for n in (1, 2, 2))
    for other in others:
        np.testing.assert_array_equal(once, other)


def test_keys_that_are_no_slice_of_a_cache(fusions):
    (x, q, k, v, *rest), options = make_arguments(
        ("float32", "float32"), "bfloat16", **CASES["many"]
    )
    padded = np.concatenate([k, k], axis=-1)
    for odd in (k.copy(), padded[..., : k.shape[-1]], np.asfortranarray(k)):
        y = fusions["attention_residual"](x, q, odd, v, *rest, **options)
        assert_within(y, expected(x, q, k, v, *rest, **options))


def test_slots_after_the_last_are_not_read(fusions):
    (x, q, k, v, *rest), options = make_arguments(("float32", "float32"), "float32", start=9)
    memory = np.full((1, 2, 40, 6), np.nan, np.float32)
    memory[:, :, :10] = k
    y = fusions["attention_residual"](x, q, memory[:, :, :10], v, *rest, **options)
    assert np.isfinite(y).all()
