import numpy as np

from tests.helpers import Place, assert_close, pure
from tests.places import on_places
from xplm.kernels.relu2 import relu2_bwd, relu2_fwd

X = np.array([[-2.0, -0.5, 0.0], [0.25, 1.0, 3.0]])
DY = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, -6.0]])


@on_places("shape", [(2, 3), (6,)], elsewhere=(2, 3))
def test_known_values(place: Place, shape):
    """Small integers and powers of two are exact in every format."""
    y, saved = pure(place.backend, relu2_fwd, place.array(X.reshape(shape)))
    (dx,) = pure(place.backend, lambda dy: relu2_bwd(dy, saved), place.array(DY.reshape(shape)))
    r = np.array([0, 0, 0, 0.25, 1, 3]).reshape(shape)
    assert_close(place.backend, y, r**2, dtype=place.dtype, bound=0.0)
    assert_close(place.backend, dx, DY.reshape(shape) * 2 * r, dtype=place.dtype, bound=0.0)
