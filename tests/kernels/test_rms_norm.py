import numpy as np
import pytest

from tests import naive
from tests.helpers import Place, assert_close, assert_on, pure, rounding_bound, to_numpy
from tests.places import on_places
from xplm.kernels.rms_norm import rms_norm_fwd


def test_rows_by_hand(backend):
    place = Place(backend, "float32")
    x, weight = place.array([[2, -2], [1, 7]]), place.array([1, 3])
    y, saved = pure(backend, rms_norm_fwd, x, weight, eps=0.0)
    # rms of (2, -2) is 2, of (1, 7) is 5.
    expected = np.array([[1, -3], [0.2, 4.2]])
    assert_close(backend, y, expected, dtype="float32", bound=8 * 2.0**-24 * abs(expected))
    assert_on(backend, saved.rstd, dtype="float32", shape=(2, 1))
    assert saved.x is x


def test_eps_is_under_the_root(backend):
    place = Place(backend, "float64")
    y, _ = rms_norm_fwd(place.array([[0, 0], [4, 4]]), place.array([1, 1]), eps=9.0)
    expected = np.array([[0, 0], [0.8, 0.8]])
    assert_close(backend, y, expected, dtype="float64", bound=4 * 2.0**-53)


@on_places(
    "shape",
    [(1, 1), (1, 7), (5, 3), (2, 3, 65), (2, 1, 1, 8), (0, 4)],
    elsewhere=(2, 3, 65),
)
def test_equals_the_formula(place, shape):
    rng = np.random.default_rng(3)
    x = place.array(rng.standard_normal(shape))
    weight = place.array(rng.standard_normal(shape[-1]))
    y, saved = pure(place.backend, rms_norm_fwd, x, weight, eps=1e-5)

    xh, wh = to_numpy(place.backend, x), to_numpy(place.backend, weight)
    expected = naive.rms_norm(xh, wh, 1e-5)
    # Rounded twice: as the normalised row, and scaled.
    bound = rounding_bound(place.dtype, terms=shape[-1] + 4, magnitude=expected, roundings=2)
    assert_close(place.backend, y, expected, dtype=place.dtype, bound=bound * 1.01)
    assert_on(place.backend, saved.rstd, dtype=place.wide, shape=(*shape[:-1], 1))


def test_row_is_rounded_before_it_is_scaled(numpy_backend):
    # (3, 7) / sqrt(29) = 0.55709, 1.29987; bfloat16 keeps 0.558594, 1.296875; times 7: 3.91016, 9.07813, which round
    # to 3.90625, 9.0625. Without the first rounding it would be 9.09907, which rounds to 9.125.
    place = Place(numpy_backend, "bfloat16")
    y, _ = rms_norm_fwd(place.array([[3, 7]]), place.array([7, 7]), eps=0.0)
    assert_close(numpy_backend, y, np.array([[3.90625, 9.0625]]), dtype="bfloat16", bound=0)


def test_island_decides_the_statistics(numpy_backend):
    place = Place(numpy_backend, "float16")
    x, weight = place.array([[300.0, -300.0]]), place.array([1, 1])
    y, saved = rms_norm_fwd(x, weight, eps=1e-5)
    assert_close(numpy_backend, y, np.array([[1, -1]]), dtype="float16", bound=0)
    assert saved.rstd.dtype == np.float32

    # 300^2 is beyond float16's 65504: the row collapses to zero. This is what the float32 island is for.
    with np.errstate(over="ignore"):
        y, saved = rms_norm_fwd(x, weight, eps=1e-5, island=place.backend.dtypes["float16"])
    assert_close(numpy_backend, y, np.array([[0, 0]]), dtype="float16", bound=0)
    assert saved.rstd.dtype == np.float16


@pytest.mark.parametrize("island", ["float64", "float32", "float16", "bfloat16"])
def test_dtypes_under_every_island(numpy_backend, island):
    for dtype in ("float64", "float32", "float16", "bfloat16"):
        place = Place(numpy_backend, dtype)
        x, weight = place.array([[1, 2]]), place.array([1, 1])
        y, saved = rms_norm_fwd(x, weight, eps=1e-5, island=numpy_backend.dtypes[island])
        assert_on(numpy_backend, y, dtype=dtype, shape=(1, 2))
        assert saved.rstd.dtype == numpy_backend.dtypes[island]
