import numpy as np
import pytest

from tests.helpers import Place, assert_close, pure, rounding_bound, to_numpy
from tests.places import on_places
from xplm.kernels.expert_sum import expert_sum_bwd, expert_sum_fwd


@pytest.mark.nightly_on("jax")
def test_known_values(backend):
    place = Place(backend, "float64")
    rows, places = place.array([[1, 2], [3, 4], [5, 6], [7, 8]]), place.ids([[2, 0], [1, 3]])
    weights = place.array([[0.5, 2], [1, -1]])
    y, saved = pure(backend, expert_sum_fwd, rows, places, weights)
    assert_close(backend, y, np.array([[4.5, 7], [-4, -4]]), dtype="float64", bound=0)
    drows, none, dweights = expert_sum_bwd(place.array([[1, 10], [100, 0]]), saved)
    expected = np.array([[2.0, 20], [100, 0], [0.5, 5], [-100, 0]])
    assert_close(backend, drows, expected, dtype="float64", bound=0)
    assert none is None
    assert_close(backend, dweights, np.array([[65.0, 21], [300, 700]]), dtype="float64", bound=0)


@on_places("shape", [(1, 1, 3), (4, 2, 5), (3, 3, 1)], elsewhere=(4, 2, 5))
def test_equals_a_loop_over_tokens(place, shape):
    N, k, C = shape
    rng = np.random.default_rng(7)
    rows, weights = place.array(rng.standard_normal((N * k, C))), place.array(rng.random((N, k)))
    places = rng.permutation(N * k).reshape(N, k)
    y, _ = pure(place.backend, expert_sum_fwd, rows, place.ids(places), weights)
    rh, wh = to_numpy(place.backend, rows), to_numpy(place.backend, weights)
    terms = np.array([[wh[n, j] * rh[places[n, j]] for j in range(k)] for n in range(N)])
    bound = rounding_bound(place.dtype, terms=k + 1, magnitude=abs(terms).sum(1))
    assert_close(place.backend, y, terms.sum(1), dtype=place.dtype, bound=bound)


def test_without_weights_it_is_the_gradient_of_copying_tokens(backend):
    place = Place(backend, "float64")
    drows, places = place.array([[1], [2], [4], [8]]), place.ids([[0, 3], [2, 1]])
    dx, saved = expert_sum_fwd(drows, places)
    assert_close(backend, dx, np.array([[9.0], [6]]), dtype="float64", bound=0)
    back, _, none = expert_sum_bwd(place.array([[1], [10]]), saved)
    assert_close(backend, back, np.array([[1.0], [10], [10], [1]]), dtype="float64", bound=0)
    assert none is None
