import math

import numpy as np
import pytest

from tests import naive
from tests.helpers import Place, assert_close, pure, rounding_bound, to_numpy
from tests.places import on_places
from xplm.kernels.gelu import gelu_fwd


@pytest.mark.nightly_on("jax")
def test_known_values(backend):
    # Far out gelu is x or 0; at 1 it is (1 + tanh(0.79788 * 1.044715)) / 2 = 0.841192.
    place = Place(backend, "float32")
    y, saved = pure(backend, gelu_fwd, place.array([0, 100, -100, 1, -1]))
    at_1 = (1 + math.tanh(math.sqrt(2 / math.pi) * 1.044715)) / 2
    assert at_1 == pytest.approx(0.841192, abs=5e-7)
    expected = np.array([0, 100, 0, at_1, at_1 - 1])
    assert_close(backend, y, expected, dtype="float32", bound=8 * 2.0**-24 * abs(expected))
    assert tuple(saved.x.shape) == (5,)


@on_places("shape", [(1,), (3, 5), (2, 1, 7), (0, 3)], elsewhere=(2, 1, 7))
def test_equals_the_formula(place, shape):
    x = place.array(3 * np.random.default_rng(5).standard_normal(shape))
    y, _ = pure(place.backend, gelu_fwd, x)
    xh = to_numpy(place.backend, x)
    # 1 + tanh cancels where x is below 0, so the bound is relative to x, not to y.
    bound = rounding_bound(place.dtype, terms=8, magnitude=xh)
    assert_close(place.backend, y, naive.gelu(xh), dtype=place.dtype, bound=bound)


def test_differs_from_the_erf_form_by_less_than_a_thousandth(numpy_backend):
    x = np.linspace(-5, 5, 101)
    y, _ = gelu_fwd(x)
    erf = np.array([v / 2 * (1 + math.erf(v / math.sqrt(2))) for v in x])
    assert 1e-5 < np.abs(y - erf).max() < 1e-3  # Hendrycks and Gimpel's approximation
