"""tanh of the fused kernels, against float64's."""

import numpy as np
from xplm_numpy.jit import serial
from xplm_numpy.tanh import tanh

MOST_ULP = 2.0


@serial()
def tanh_of(x, y):
    for i in range(len(x)):
        y[i] = tanh(x[i])


def tangents(x):
    x = np.asarray(x, np.float32)
    y = np.empty_like(x)
    tanh_of(x, y)
    return y


def test_within_two_units_in_the_last_place():
    # Every 1,021st float32 of size 2^-120 to 100, both sides of the change of form among them.
    bits = np.arange(0, 2**32, 1021, dtype=np.uint32)
    x = bits.view(np.float32)
    x = x[np.isfinite(x) & (np.abs(x) > 2.0**-120) & (np.abs(x) < 100.0)]
    exact = np.tanh(x.astype(np.float64))
    ulp = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    assert len(x) > 2_000_000
    assert np.max(np.abs(tangents(x) - exact) / ulp) <= MOST_ULP


def test_special_values():
    x = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e30, -1e30]
    np.testing.assert_array_equal(tangents(x), [0, 0, 1, -1, np.nan, 1, -1])
