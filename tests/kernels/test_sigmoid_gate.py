import math

import numpy as np
import pytest

from tests.helpers import Place, assert_close, pure, rounding_bound, to_numpy
from tests.places import on_places
from xplm.kernels.sigmoid_gate import sigmoid_gate_bwd, sigmoid_gate_fwd


@pytest.mark.nightly_on("jax")
def test_known_values(backend):
    # sigmoid(ln 3) = 3/4, whose derivative is 3/16.
    place = Place(backend, "float64")
    gate, x = place.array([[0], [math.log(3)]]), place.array([[2, 4], [4, -8]])
    y, saved = pure(backend, sigmoid_gate_fwd, gate, x)
    bound = 64 * 2.0**-53
    assert_close(backend, y, np.array([[1.0, 2], [3, -6]]), dtype="float64", bound=bound)
    dgate, dx = sigmoid_gate_bwd(place.array([[1, 1], [8, 0]]), saved)
    assert_close(backend, dgate, np.array([[1.5], [6]]), dtype="float64", bound=bound)
    assert_close(backend, dx, np.array([[0.5, 0.5], [6, 0]]), dtype="float64", bound=bound)


@on_places("shape", [(1, 1), (3, 5), (0, 3)], elsewhere=(3, 5))
def test_equals_the_formula(place, shape):
    rng = np.random.default_rng(9)
    gate, x = (place.array(4 * rng.standard_normal(shape)) for _ in range(2))
    y, _ = pure(place.backend, sigmoid_gate_fwd, gate, x)
    gh, xh = to_numpy(place.backend, gate), to_numpy(place.backend, x)
    expected = xh / (1 + np.exp(-gh))
    bound = rounding_bound(place.dtype, terms=8, magnitude=expected)
    assert_close(place.backend, y, expected, dtype=place.dtype, bound=bound)
