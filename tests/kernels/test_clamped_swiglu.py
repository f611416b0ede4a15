import math

import numpy as np
import pytest

from tests.helpers import Place, assert_close, pure, rounding_bound, to_numpy
from tests.places import on_places
from xplm.kernels.clamped_swiglu import clamped_swiglu_bwd, clamped_swiglu_fwd

OPTIONS = {"alpha": 1.702, "limit": 7.0}


@pytest.mark.nightly_on("jax")
def test_known_values(backend):
    # sigmoid(ln 3) = 3/4; a gate of 99 is 7, and ups of 99 and -99 are 7 and -7.
    place = Place(backend, "float64")
    gate = place.array([math.log(3), math.log(3), 99, 0])
    up = place.array([1, 99, -99, 5])
    y, saved = pure(backend, clamped_swiglu_fwd, gate, up, alpha=1.0, limit=7.0)
    seven = 7 / (1 + math.exp(-7))
    expected = np.array([1.5 * math.log(3), 6 * math.log(3), -6 * seven, 0])
    assert_close(backend, y, expected, dtype="float64", bound=16 * 2.0**-53 * abs(expected))
    dgate, dup = clamped_swiglu_bwd(place.array([1, 1, 1, 1]), saved)
    assert (to_numpy(backend, dgate) != 0).tolist() == [True, True, False, True]
    assert (to_numpy(backend, dup) != 0).tolist() == [True, False, False, False]


def test_large_gates_do_not_overflow(place):
    y, _ = pure(
        place.backend, clamped_swiglu_fwd, place.array([1e4, -1e4]), place.array([0, 0]), **OPTIONS
    )
    assert_close(place.backend, y, np.array([7.0, 0]), dtype=place.dtype, bound=7 * 2.0**-8)


@on_places("shape", [(1,), (3, 5), (0, 3)], elsewhere=(3, 5))
def test_equals_the_formula(place, shape):
    rng = np.random.default_rng(8)
    gate, up = (place.array(6 * rng.standard_normal(shape)) for _ in range(2))
    y, _ = pure(place.backend, clamped_swiglu_fwd, gate, up, **OPTIONS)
    g = np.minimum(to_numpy(place.backend, gate), 7)
    u = np.clip(to_numpy(place.backend, up), -7, 7)
    expected = (u + 1) * g / (1 + np.exp(-1.702 * g))
    magnitude = (abs(u) + 1) * abs(g) / (1 + np.exp(-1.702 * g)) * (1 + abs(1.702 * g))
    bound = rounding_bound(place.dtype, terms=12, magnitude=magnitude)
    assert_close(place.backend, y, expected, dtype=place.dtype, bound=bound)
