import numpy as np

from tests.helpers import Place, assert_close, pure, to_numpy
from tests.places import on_places
from xplm.kernels.embedding import embedding_fwd


def test_rows_by_hand(backend):
    place = Place(backend, "float32")
    ids, weight = place.ids([[2, 0, 2]]), place.array([[1, 2], [3, 4], [5, 6]])
    y, saved = pure(backend, embedding_fwd, ids, weight)
    assert_close(backend, y, np.array([[[5, 6], [1, 2], [5, 6]]]), dtype="float32", bound=0)
    assert saved.ids is ids
    assert saved.weight is weight


@on_places("shape", [(1,), (5,), (1, 1), (2, 3), (2, 1, 4), (0,)], elsewhere=(2, 3))
def test_equals_a_product_with_one_hot_rows(place, shape):
    rng = np.random.default_rng(2)
    ids = rng.integers(0, 7, shape)
    weight = place.array(rng.standard_normal((7, 3)))
    y, _ = pure(place.backend, embedding_fwd, place.ids(ids), weight)
    expected = np.eye(7)[ids] @ to_numpy(place.backend, weight)
    assert_close(place.backend, y, expected, dtype=place.dtype, bound=0)
