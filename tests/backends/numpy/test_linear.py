"""The fused linear map, by registers and by BLAS, against its definition."""

import numpy as np
import pytest
from xplm_numpy import gemm
from xplm_numpy.kernels import FUSED
from xplm_numpy.kernels import linear as fused

from tests.kernels.fusions.bounds import assert_within, draw, linear, stored
from xplm.kernels.linear import linear_fwd

PAIRS = [
    ("float32", "float32"),
    ("bfloat16", "bfloat16"),
    ("float16", "float16"),
    ("float32", "bfloat16"),
    ("bfloat16", "float32"),
]


def make_arguments(dtypes, rows, N, C, bias=True):
    rng = np.random.default_rng(60)
    x = draw(rng, dtypes[0], *rows, C)
    weight = draw(rng, dtypes[1], N, C, scale=C**-0.5)
    return x, weight, draw(rng, dtypes[1], N) if bias else None


@pytest.mark.parametrize("dtypes", PAIRS, ids="-".join)
@pytest.mark.parametrize(
    "rows", [(1,), (2,), (3, 1), (4,), (7,), (2, 8), (17,), (3, 40), (0, 4)], ids=str
)
@pytest.mark.parametrize(("N", "C"), [(1, 1), (9, 33), (24, 64)])
@pytest.mark.parametrize("bias", [True, False])
def test_is_what_it_is_by_definition(dtypes, rows, N, C, bias):
    x, weight, b = make_arguments(dtypes, rows, N, C, bias)
    y, saved = FUSED["linear_fwd"](x, weight, b)
    assert_within(y, linear(stored(x), weight, b))
    assert saved.x is x
    assert saved.weight is weight
    assert saved.bias is b


def test_narrow_weights_beyond_one_block(monkeypatch):
    x, weight, bias = make_arguments(("bfloat16", "bfloat16"), (20,), 50, 16)
    monkeypatch.setattr(fused, "BLOCK_NUMBERS", 7 * 16)
    y, saved = FUSED["linear_fwd"](x, weight, bias)
    assert_within(y, linear(stored(x), weight, bias))

    dy = draw(np.random.default_rng(3), "bfloat16", 20, 50)
    dx, _, _ = FUSED["linear_bwd"](dy, saved)
    assert_within(dx, linear(stored(dy), weight.T, None))


@pytest.mark.parametrize("dtypes", PAIRS, ids="-".join)
def test_threads_and_runs_change_no_bit(dtypes, on_threads):
    arguments = make_arguments(dtypes, (6,), 100, 130)
    once, *others = (on_threads(n, FUSED["linear_fwd"], *arguments)[0] for n in (1, 2, 1))
    for other in others:
        np.testing.assert_array_equal(other, once)


def test_what_is_not_taken_on_is_the_portable_kernels():
    x, weight, bias = make_arguments(("float32", "float32"), (2,), 8, 6)
    wide = [a.astype(np.float64) for a in (x, weight, bias)]
    transposed = np.asfortranarray(weight)
    for arguments in (wide, (x, transposed, bias)):
        np.testing.assert_array_equal(FUSED["linear_fwd"](*arguments)[0], linear_fwd(*arguments)[0])


def test_overflow_nan_and_ties_round_as_numpy_rounds():
    specials = np.array([[np.inf], [-np.inf], [np.nan], [1e38], [70000.0]], np.float32)
    one = np.ones((1, 1), np.float32)
    for dtype in (np.float16, "bfloat16"):
        with np.errstate(over="ignore"):
            narrow = specials.astype(dtype)
        x = np.ones((1, 1), narrow.dtype)
        y, _ = FUSED["linear_fwd"](x, specials)
        np.testing.assert_array_equal(y[0].astype(np.float32), narrow[:, 0].astype(np.float32))
        ties = np.array([[1 + 2.0**-9], [1 + 3 * 2.0**-9], [1 + 2.0**-12]], np.float32)
        y, _ = FUSED["linear_fwd"](x, ties)
        np.testing.assert_array_equal(y[0], ties.astype(dtype)[:, 0])
    y, _ = FUSED["linear_fwd"](one, specials)
    np.testing.assert_array_equal(y[0], specials[:, 0])


@pytest.mark.parametrize(
    "view", [lambda x: x[:, ::2], lambda x: x[::-1]], ids=["columns", "backwards"]
)
def test_rows_that_are_not_dense_are_multiplied_like_dense_ones(monkeypatch, view):
    rng = np.random.default_rng(7)
    x = view(draw(rng, "float32", 64, 512))
    weight = draw(rng, "float32", 128, x.shape[1])
    assert gemm.count_pieces(64, 128, x.shape[1]) > 1
    expected, _ = FUSED["linear_fwd"](x.copy(), weight)
    monkeypatch.setattr(np, "matmul", None)  # whose threads would cut it elsewhere
    y, _ = FUSED["linear_fwd"](x, weight)
    np.testing.assert_array_equal(y, expected)
