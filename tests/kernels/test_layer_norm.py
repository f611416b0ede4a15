import numpy as np
import pytest

from tests import naive
from tests.helpers import Place, assert_close, assert_on, pure, rounding_bound, to_numpy
from tests.places import on_places
from xplm.kernels.layer_norm import layer_norm_fwd


@pytest.mark.nightly_on("jax")
def test_row_by_hand(backend):
    place = Place(backend, "float32")
    x, weight, bias = place.array([[1, 3], [7, 7]]), place.array([2, 4]), place.array([10, 20])
    y, saved = pure(backend, layer_norm_fwd, x, weight, bias, eps=1e-12)
    assert_close(backend, y, np.array([[8, 24], [10, 20]]), dtype="float32", bound=1e-5)
    assert_close(backend, saved.mean, np.array([[2], [7]]), dtype="float32", bound=0)
    assert_on(backend, saved.rstd, dtype="float32", shape=(2, 1))


@on_places("shape", [(1, 1), (1, 7), (5, 3), (2, 3, 65), (0, 4)], elsewhere=(2, 3, 65))
def test_equals_the_formula(place, shape):
    rng = np.random.default_rng(4)
    x = place.array(rng.standard_normal(shape))
    weight, bias = (place.array(rng.standard_normal(shape[-1])) for _ in range(2))
    y, saved = pure(place.backend, layer_norm_fwd, x, weight, bias, eps=1e-5)

    xh, wh, bh = (to_numpy(place.backend, a) for a in (x, weight, bias))
    expected = naive.layer_norm(xh, wh, bh, 1e-5)
    # An error of the mean, at most terms * u * max|x|, passes through rstd; near 0, only the parts bound the result.
    rstd = 1 / np.sqrt(xh.var(-1, keepdims=True) + 1e-5)
    magnitude = (2 * abs(xh).max(-1, keepdims=True, initial=0) * rstd * abs(wh)) + abs(bh)
    bound = rounding_bound(place.dtype, terms=shape[-1] + 6, magnitude=magnitude)
    assert_close(place.backend, y, expected, dtype=place.dtype, bound=bound)
    assert_on(place.backend, saved.rstd, dtype=place.wide, shape=(*shape[:-1], 1))


def test_large_mean_does_not_cancel(backend):
    # mean(x^2) - mean(x)^2 would be 2^28 - 2^28 = 0 in float32, and the row infinite.
    place = Place(backend, "float32")
    x = place.array([[2.0**14 - 1, 2.0**14 + 1]])
    y, _ = layer_norm_fwd(x, place.array([1, 1]), place.array([0, 0]), eps=1e-12)
    assert_close(backend, y, np.array([[-1, 1]]), dtype="float32", bound=4 * 2.0**-24)


@pytest.mark.parametrize("island", ["float64", "float32", "float16", "bfloat16"])
def test_dtypes_under_every_island(numpy_backend, island):
    for dtype in ("float64", "float32", "float16", "bfloat16"):
        place = Place(numpy_backend, dtype)
        x, weight, bias = place.array([[1, 2]]), place.array([1, 1]), place.array([0, 0])
        y, saved = layer_norm_fwd(x, weight, bias, eps=1e-5, island=numpy_backend.dtypes[island])
        assert_on(numpy_backend, y, dtype=dtype, shape=(1, 2))
        assert saved.mean.dtype == saved.rstd.dtype == numpy_backend.dtypes[island]


def test_island_makes_a_visible_difference(numpy_backend):
    # 300 above its mean, squared, is beyond float16's 65504.
    place = Place(numpy_backend, "float16")
    x, weight, bias = place.array([[300, -300]]), place.array([1, 1]), place.array([0, 0])
    y, _ = layer_norm_fwd(x, weight, bias, eps=1e-5)
    assert_close(numpy_backend, y, np.array([[1, -1]]), dtype="float16", bound=0)
    with np.errstate(over="ignore"):
        y, _ = layer_norm_fwd(x, weight, bias, eps=1e-5, island=numpy_backend.dtypes["float16"])
    assert_close(numpy_backend, y, np.array([[0, 0]]), dtype="float16", bound=0)
