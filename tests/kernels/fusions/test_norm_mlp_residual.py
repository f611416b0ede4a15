import numpy as np
import pytest
from xplm_numpy.kernels import FUSED

from tests.kernels.fusions.bounds import EPS, assert_within, draw, mlp_half, stored
from xplm.kernels.fusions import FUSIONS


def make_arguments(dtypes, *, B, C, F, bias, T=1):
    rng = np.random.default_rng(51)
    activation, weight = dtypes
    shapes = ((F, C), (F, C), (C, F))
    return [
        *[draw(rng, activation, B, T, C) for _ in range(2)],
        draw(rng, weight, C),
        *[draw(rng, weight, *shape, scale=2 * shape[1] ** -0.5) for shape in shapes],
        *[draw(rng, weight, n) if bias else None for n, _ in shapes],
    ]


def expected(x, residual, *weights):
    return mlp_half(stored(x), stored(residual), *weights)


@pytest.mark.parametrize(
    "shape",
    [
        {"B": 1, "C": 33, "F": 50, "bias": True},
        {"B": 1, "C": 1, "F": 1, "bias": False},
        {"B": 7, "C": 40, "F": 40, "bias": False},
        {"B": 8, "C": 16, "F": 27, "bias": True},
        {"B": 2, "C": 8, "F": 12, "bias": False, "T": 3},
    ],
    ids=str,
)
def test_is_what_its_ops_are(fusions, dtypes, shape):
    arguments = make_arguments(dtypes, **shape)
    actual = fusions["norm_mlp_residual"](*arguments, eps=EPS, island=np.dtype(np.float32))
    assert_within(actual, expected(*arguments))


def test_a_saturated_gate_stays_finite(fusions):
    x = np.array([[[1.0, -1.0]]], np.float32)
    gate = np.array([[2000.0, 0.0], [0.0, 2000.0]], np.float32)  # 2000, where exp overflows; -2000
    eye = np.eye(2, dtype=np.float32)
    norm = np.ones(2, np.float32)
    y = fusions["norm_mlp_residual"](x, x, norm, gate, eye, eye, None, None, None, eps=0.0)
    np.testing.assert_array_equal(y, [[[2001.0, -1.0]]])


def test_weights_of_several_dtypes(fusions):
    arguments = make_arguments(("float32", "float32"), B=2, C=9, F=10, bias=False)
    arguments[3] = arguments[3].astype("bfloat16")
    assert_within(fusions["norm_mlp_residual"](*arguments, eps=EPS), expected(*arguments))


def test_an_island_in_float64_is_the_compositions(dtypes):
    arguments = make_arguments(dtypes, B=2, C=9, F=10, bias=True)
    y, expected = (
        table["norm_mlp_residual"](*arguments, eps=EPS, island=np.dtype(np.float64))
        for table in (FUSED, FUSIONS)
    )
    np.testing.assert_array_equal(y, expected)


def test_threads_and_runs_change_no_bit(fusions, dtypes, on_threads):
    arguments = make_arguments(dtypes, B=5, C=65, F=90, bias=True)
    fusion = fusions["norm_mlp_residual"]
    once, *others = (on_threads(n, fusion, *arguments, eps=EPS) for n in (1, 2, 2))
    for other in others:
        np.testing.assert_array_equal(once, other)
