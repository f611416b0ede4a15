"""exp of the fused kernels, against float64's."""

import numpy as np
from xplm_numpy.activations import SATURATED
from xplm_numpy.exp import exp
from xplm_numpy.jit import serial

MOST_ULP = 2.0


@serial()
def exp_of(x, y):
    for i in range(len(x)):
        y[i] = exp(x[i])


def exponentials(x):
    x = np.asarray(x, np.float32)
    y = np.empty_like(x)
    exp_of(x, y)
    return y


def test_within_two_units_in_the_last_place():
    # Every 509th float32 of those whose exponential is a normal number, about four million.
    bits = np.arange(0, 2**32, 509, dtype=np.uint32)
    x = bits.view(np.float32)
    x = x[np.isfinite(x) & (x > -87.3) & (x < 88.3)]
    exact = np.exp(x.astype(np.float64))
    ulp = np.spacing(exact.astype(np.float32)).astype(np.float64)
    assert len(x) > 4_000_000
    assert np.max(np.abs(exponentials(x) - exact) / ulp) <= MOST_ULP


def test_between_two_neighbours_it_does_not_fall():
    x = np.linspace(-20, 20, 1_000_001).astype(np.float32)
    y = exponentials(np.sort(x)).astype(np.float64)
    assert np.all(y[1:] >= y[:-1] * (1 - 2 * MOST_ULP * 2.0**-23))


def test_special_values():
    x = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e30, -1e30]
    np.testing.assert_array_equal(exponentials(x), [1, 1, np.inf, 0, np.nan, np.inf, 0])


def test_where_a_sigmoid_is_1_it_is_a_power_of_two():
    (e,) = exponentials([SATURATED])
    assert e == np.float32(2.0**28)
    assert e + np.float32(1.0) == e
