"""Dot products in one order of sums, whatever is computed beside them, against that order written out."""

import ml_dtypes
import numpy as np
import pytest
from xplm_numpy.dot import LANES, dot, highest
from xplm_numpy.gemm_by_rows import SLAB, multiply_rows
from xplm_numpy.gemv import CHUNK
from xplm_numpy.jit import serial
from xplm_numpy.narrow import bits

DTYPES = (np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16))
U = 2.0**-24

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@serial(is_kernel=True)
def dot_of(a, a_at, b, b_at, n):
    return dot(a, a_at, b, b_at, n)


@serial(is_kernel=True)
def highest_of(a, at, n):
    return highest(a, at, n)


def fused(a, b, c):
    """a b + c of float32, rounded once: exact in float64, for a product of two has 48 bits and c is added to them."""
    exact = np.asarray(a, np.float64) * np.asarray(b, np.float64)
    return (exact.astype(np.longdouble) + c).astype(np.float32)


def row_sum(x, w):
    """A row's sum in the order that `xplm_numpy.gemv` states, by NumPy."""
    total = None
    for begin in range(0, max(1, len(x)), CHUNK):
        a, b = x[begin : begin + CHUNK], w[begin : begin + CHUNK]
        whole = len(a) // LANES * LANES
        lanes = np.zeros(LANES, np.float32)
        for c in range(0, whole, LANES):
            lanes = fused(a[c : c + LANES], b[c : c + LANES], lanes)
        while len(lanes) > 8:
            lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
        pairs = lanes[::2] + lanes[1::2]
        part = (pairs[0] + pairs[1]) + (pairs[2] + pairs[3])
        for c in range(whole, len(a)):
            part = fused(a[c], b[c], part)
        total = part if total is None else total + part
    return total


@every_dtype
@pytest.mark.parametrize("C", [1, LANES - 1, LANES, 67, CHUNK, 2 * CHUNK + 21])
@pytest.mark.parametrize("N", [1, 7, 140])
def test_a_rows_sums_are_in_one_order(dtype, C, N):
    rng = np.random.default_rng(7)
    x = rng.standard_normal((SLAB + 5, C)).astype(np.float32)
    weight = rng.standard_normal((N, C)).astype(dtype)
    no_bias = bits(np.empty(0, dtype))
    together, few = np.empty((len(x), N), np.float32), np.empty((len(x), N), np.float32)
    multiply_rows(x, bits(weight), no_bias, together)
    for begin in range(0, len(x), 5):  # tiles of three rows and of two
        multiply_rows(x[begin : begin + 5], bits(weight), no_bias, few[begin : begin + 5])
    np.testing.assert_array_equal(few, together)

    alone = np.empty((1, N), np.float32)
    multiply_rows(x[11:12], bits(weight), no_bias, alone)
    np.testing.assert_array_equal(alone[0], together[11])
    wide = weight.astype(np.float32)
    for n in {0, N // 2, N - 1}:
        assert together[11, n] == row_sum(x[11], wide[n])


@every_dtype
@pytest.mark.parametrize("n", [0, 1, 7, 8, 31, 32, 33, 577])
def test_a_dot_product_is_within_rounding(dtype, n):
    rng = np.random.default_rng(8)
    a, b = rng.standard_normal((2, n + 3)).astype(dtype)
    expected = a[1 : 1 + n].astype(np.float64) * b[3 : 3 + n].astype(np.float64)
    found = dot_of(bits(a), 1, bits(b), 3, n)
    # n additions in a lane and five levels of lanes at most, each rounded
    assert abs(found - expected.sum()) <= (n + 5) * U * abs(expected).sum()


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 64])
def test_the_highest_of_a_stretch(n):
    a = np.random.default_rng(9).standard_normal(n + 2).astype(np.float32)
    assert highest_of(a, 1, n) == max(a[1 : 1 + n], default=-np.inf)
    if n > 1:
        a[2] = np.nan
        assert highest_of(a, 1, n) == np.nanmax(a[1 : 1 + n])
