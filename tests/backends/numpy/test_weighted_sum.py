"""Weighted sums in one order, whatever rows are computed together, against that order written out."""

import ml_dtypes
import numpy as np
import pytest
from xplm_numpy.jit import serial
from xplm_numpy.key_block import add_weighted
from xplm_numpy.narrow import bits
from xplm_numpy.vectors import LANES

from tests.backends.numpy.test_dot import fused

LOWS = np.array([0, 2, 5, 9, 3, 3, 7])
HIGHS = np.array([9, 9, 6, 9, 8, 8, 8])


@serial(is_kernel=True)
def add(probs, lows, highs, v, v_at, v_row, sums):
    add_weighted(probs, lows, highs, v, v_at, v_row, sums)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16])
@pytest.mark.parametrize("D", [1, LANES - 1, 5 * LANES, 6 * LANES + 3])
def test_rows_of_one_tile_and_of_several_sum_up_what_they_see(dtype, D):
    rng = np.random.default_rng(3)
    probs = rng.random((len(LOWS), 11), np.float32)
    gap = 2
    v = rng.standard_normal((1 + 9, D + gap)).astype(dtype)
    v[0] = v[:, D:] = np.nan  # what lies before and between is read by nobody
    sums = np.full((len(LOWS), D), np.nan, np.float32)
    add(probs, LOWS, HIGHS, bits(v).reshape(-1), D + gap, D + gap, sums)

    wide = v[1:, :D].astype(np.float32)
    for r, (low, high) in enumerate(zip(LOWS, HIGHS, strict=True)):
        expected = np.zeros(D, np.float32)
        for s in range(low, high):
            expected = fused(probs[r, s], wide[s], expected)
        np.testing.assert_array_equal(sums[r], expected)
