import math

import numpy as np
import pytest

from tests import naive
from tests.helpers import Place, assert_close, assert_on, pure, rounding_bound, to_numpy
from tests.places import on_places
from xplm.kernels.softmax import softmax_fwd

LOGS = [math.log(1), math.log(2), math.log(5)]


def bool_array(backend, host):
    return backend.from_host(np.asarray(host, np.bool_))


def test_row_by_hand(backend):
    place = Place(backend, "float64")
    y, saved = pure(backend, softmax_fwd, place.array([LOGS]))
    assert_close(backend, y, np.array([[1, 2, 5]]) / 8, dtype="float64", bound=1e-15)
    assert_close(backend, saved.lse, np.array([[math.log(8)]]), dtype="float64", bound=1e-15)


def test_hidden_entries_get_exactly_zero(backend):
    place = Place(backend, "float64")
    visible = bool_array(backend, [[True, False, True]])
    y, saved = pure(backend, softmax_fwd, place.array([LOGS]), visible)
    assert_close(backend, y, np.array([[1, 0, 5]]) / 6, dtype="float64", bound=1e-15)
    assert to_numpy(backend, y)[0, 1] == 0
    assert_close(backend, saved.lse, np.array([[math.log(6)]]), dtype="float64", bound=1e-15)


def test_row_with_nothing_visible_gives_zeros(place):
    visible = bool_array(place.backend, [[False, False], [True, False]])
    y, saved = pure(place.backend, softmax_fwd, place.array([[3, 4], [5, 6]]), visible)
    assert_close(place.backend, y, np.array([[0, 0], [1, 0]]), dtype=place.dtype, bound=0)
    expected = np.array([[-np.inf], [5]])
    assert_close(place.backend, saved.lse, expected, dtype=place.wide, bound=0)


def test_huge_scores_do_not_overflow(place):
    big = 3e4  # beyond float16's exp by far, within its range
    y, _ = pure(place.backend, softmax_fwd, place.array([[big, big, -big], [-big, -big, -big]]))
    expected = np.array([[1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3]])
    bound = rounding_bound(place.dtype, terms=5, magnitude=expected)
    assert_close(place.backend, y, expected, dtype=place.dtype, bound=bound)


@on_places("sign", [1, -1], elsewhere=1)
def test_hidden_huge_score_does_not_matter(place, sign):
    visible = bool_array(place.backend, [[True, False, True]])
    y, _ = pure(place.backend, softmax_fwd, place.array([[0, sign * 6e4, 0]]), visible)
    assert_close(place.backend, y, np.array([[0.5, 0, 0.5]]), dtype=place.dtype, bound=0)


@on_places(
    ("shape", "mask_shape"),
    [((1, 1), (1, 1)), ((3, 7), (7,)), ((2, 3, 33), (3, 33)), ((2, 2, 3, 5), (2, 1, 3, 5))],
    elsewhere=((2, 2, 3, 5), (2, 1, 3, 5)),
)
def test_equals_the_formula(place, shape, mask_shape):
    rng = np.random.default_rng(7)
    x = place.array(4 * rng.standard_normal(shape))
    mask = rng.random(mask_shape) < 0.6
    for visible in (None, mask):
        on_device = None if visible is None else bool_array(place.backend, visible)
        y, saved = pure(place.backend, softmax_fwd, x, on_device)
        expected, lse = naive.softmax(
            to_numpy(place.backend, x), np.array(True) if visible is None else visible
        )
        # exp(x - m) carries the rounding of x - m, at most |x - m| u, into a relative error: 32 covers |x - m| < 30.
        terms = shape[-1] + 32
        bound = rounding_bound(place.dtype, terms=terms, magnitude=expected)
        assert_close(place.backend, y, expected, dtype=place.dtype, bound=bound)
        magnitude = np.where(np.isinf(lse), 0, abs(lse)) + 1
        lse_bound = rounding_bound(place.wide, terms=terms, magnitude=magnitude)
        assert_close(place.backend, saved.lse, lse, dtype=place.wide, bound=lse_bound)


@pytest.mark.parametrize("island", ["float64", "float32", "float16", "bfloat16"])
def test_dtypes_under_every_island(numpy_backend, island):
    visible = np.array([[True, False, True]])
    for dtype in ("float64", "float32", "float16", "bfloat16"):
        for mask in (None, visible):
            x = Place(numpy_backend, dtype).array([LOGS])
            y, saved = softmax_fwd(x, mask, island=numpy_backend.dtypes[island])
            assert_on(numpy_backend, y, dtype=dtype, shape=(1, 3))
            assert_on(numpy_backend, saved.y, dtype=island, shape=(1, 3))
            wide = Place(numpy_backend, island).wide
            assert_on(numpy_backend, saved.lse, dtype=wide, shape=(1, 1))


def test_sum_in_bfloat16_is_visibly_wrong(numpy_backend):
    # 1,024 equal scores: each should get 2^-10. A bfloat16 sum of ones stalls at 256 and gives 2^-8.
    place = Place(numpy_backend, "float32")
    x = place.array(np.zeros((1, 1024)))
    y, _ = softmax_fwd(x)
    assert_close(numpy_backend, y, np.full((1, 1024), 2.0**-10), dtype="float32", bound=0)
    y, _ = softmax_fwd(x, island=numpy_backend.dtypes["bfloat16"])
    assert float(y.sum()) > 2


@pytest.mark.parametrize("island", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("score", [-3e4, -5e4])
def test_very_negative_scores_beside_hidden_ones(numpy_backend, island, score):
    # Whatever stands in for a hidden score, it must not count as the row's maximum.
    place = Place(numpy_backend, "float32")
    visible = np.array([[True, True, False]])
    x = place.array([[score, score, 0]])
    y, _ = softmax_fwd(x, visible, island=numpy_backend.dtypes[island])
    assert_close(numpy_backend, y, np.array([[0.5, 0.5, 0]]), dtype="float32", bound=0)
