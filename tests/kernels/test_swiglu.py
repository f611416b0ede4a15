import math

import numpy as np
import pytest

from tests import naive
from tests.helpers import Place, assert_close, pure, rounding_bound, to_numpy
from tests.places import on_places
from xplm.kernels.swiglu import sigmoid, swiglu_fwd


@pytest.mark.nightly_on("jax")
def test_known_values(backend):
    # sigmoid(ln 3) = 3/4, sigmoid(-ln 3) = 1/4.
    place = Place(backend, "float64")
    gate, up = place.array([0, math.log(3), -math.log(3)]), place.array([5, 4, 4])
    y, saved = pure(backend, swiglu_fwd, gate, up)
    expected = np.array([0, 3 * math.log(3), -math.log(3)])
    assert_close(backend, y, expected, dtype="float64", bound=8 * 2.0**-53 * abs(expected))
    assert saved.gate is gate
    assert saved.up is up


def test_large_gates_do_not_overflow(place):
    y, _ = pure(place.backend, swiglu_fwd, place.array([1e4, -1e4]), place.array([1, 1]))
    expected = to_numpy(place.backend, place.array([1e4, 0]))
    assert_close(place.backend, y, expected, dtype=place.dtype, bound=0)


@on_places("shape", [(1,), (3, 5), (2, 1, 7), (0, 3)], elsewhere=(2, 1, 7))
def test_equals_the_formula(place, shape):
    rng = np.random.default_rng(6)
    gate, up = (place.array(3 * rng.standard_normal(shape)) for _ in range(2))
    y, _ = pure(place.backend, swiglu_fwd, gate, up)
    expected = naive.swiglu(to_numpy(place.backend, gate), to_numpy(place.backend, up))
    bound = rounding_bound(place.dtype, terms=8, magnitude=expected)
    assert_close(place.backend, y, expected, dtype=place.dtype, bound=bound)


def test_sigmoids_of_x_and_minus_x_add_up_to_one(backend):
    x = Place(backend, "float64").array(np.linspace(-40, 40, 33))
    total = to_numpy(backend, sigmoid(x) + sigmoid(-x))
    np.testing.assert_allclose(total, 1, rtol=0, atol=4 * 2.0**-53)
