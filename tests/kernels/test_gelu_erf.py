import math

import numpy as np
import pytest

from tests import naive
from tests.helpers import Place, assert_close, pure, rounding_bound, to_numpy
from tests.places import on_places
from xplm.kernels.gelu_erf import gelu_erf_fwd, normal_share


@pytest.mark.nightly_on("jax")
def test_known_values(backend):
    # Phi(1) = 0.8413447; far out it is 1 or 0.
    place = Place(backend, "float32")
    y, saved = pure(backend, gelu_erf_fwd, place.array([0, 1e30, -100, 1, -1]))
    expected = np.array([0, 1e30, 0, 0.841344746, -0.158655254])
    assert_close(backend, y, expected, dtype="float32", bound=8 * 2.0**-24 * abs(expected))
    assert tuple(saved.x.shape) == (5,)


@on_places("shape", [(1,), (3, 5), (2, 1, 7), (0, 3)], elsewhere=(2, 1, 7))
def test_equals_the_formula(place, shape):
    x = place.array(3 * np.random.default_rng(5).standard_normal(shape))
    y, _ = pure(place.backend, gelu_erf_fwd, x)
    xh = to_numpy(place.backend, x)
    expected = naive.gelu_erf(xh) if xh.size else xh
    bound = rounding_bound(place.dtype, terms=8, magnitude=xh)
    assert_close(place.backend, y, expected, dtype=place.dtype, bound=bound)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_share_below_zero_is_right_to_a_few_units_and_those_of_the_exponential(dtype):
    """erfc of the C library is within one unit; exp(-t^2) is off by t^2 of them, and t twice by its own rounding."""
    x = np.linspace(-9, 0, 2001).astype(dtype)
    share, _ = normal_share(x)
    expected = np.array([math.erfc(-v / math.sqrt(2)) / 2 for v in x.astype(np.float64)])
    error = np.abs(share / expected - 1)
    u = np.finfo(dtype).eps / 2
    assert (error <= (30 + 2 * x.astype(np.float64) ** 2) * u).all()
