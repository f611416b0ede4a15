import numpy as np
import pytest

from tests import naive
from tests.helpers import Place, assert_close, pure, rounding_bound, to_numpy
from tests.places import on_places
from xplm.kernels.expert_linear import expert_linear_bwd, expert_linear_fwd


@pytest.mark.nightly_on("jax")
def test_known_values(backend):
    place = Place(backend, "float64")
    x = place.array([[1, 2], [3, 4], [5, 6]])
    weight, bias = place.array([[[1, 0]], [[9, 9]], [[1, 1]]]), place.array([[1], [9], [-1]])
    y, saved = pure(backend, expert_linear_fwd, x, weight, bias, counts=(2, 0, 1))
    assert_close(backend, y, np.array([[2.0], [4], [10]]), dtype="float64", bound=0)
    dx, dweight, dbias = expert_linear_bwd(place.array([[1], [10], [100]]), saved)
    assert_close(backend, dx, np.array([[1.0, 0], [10, 0], [100, 100]]), dtype="float64", bound=0)
    expected = np.array([[[31.0, 42]], [[0, 0]], [[500, 600]]])
    assert_close(backend, dweight, expected, dtype="float64", bound=0)
    assert_close(backend, dbias, np.array([[11.0], [0], [100]]), dtype="float64", bound=0)


@on_places("counts", [(1,), (3, 0, 2), (0, 0, 4)], elsewhere=(3, 0, 2))
def test_equals_one_product_an_expert(place, counts):
    rng = np.random.default_rng(6)
    E, M = len(counts), sum(counts)
    x, weight, bias = (
        place.array(rng.standard_normal(shape)) for shape in ((M, 5), (E, 3, 5), (E, 3))
    )
    y, _ = pure(place.backend, expert_linear_fwd, x, weight, bias, counts=counts)
    xh, wh, bh = (to_numpy(place.backend, array) for array in (x, weight, bias))
    experts = np.repeat(np.arange(E), counts)
    rows = [naive.linear(row, wh[e], bh[e]) for e, row in zip(experts, xh, strict=True)]
    size = [abs(wh[e]) @ abs(row) + abs(bh[e]) for e, row in zip(experts, xh, strict=True)]
    bound = rounding_bound(place.dtype, terms=7, magnitude=np.array(size))
    assert_close(place.backend, y, np.array(rows), dtype=place.dtype, bound=bound)


def test_frozen_weights_have_no_gradient(backend):
    place = Place(backend, "float64")
    x, weight = place.array([[1, 2]]), place.array([[[1, 0]], [[0, 1]]])
    _, saved = expert_linear_fwd(x, weight, counts=(0, 1))
    dx, dweight, dbias = expert_linear_bwd(place.array([[2]]), saved, is_frozen=True)
    assert_close(backend, dx, np.array([[0.0, 2]]), dtype="float64", bound=0)
    assert (dweight, dbias) == (None, None)
