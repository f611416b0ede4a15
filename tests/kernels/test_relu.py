import numpy as np

from tests.helpers import Place, assert_close, pure
from tests.places import on_places
from xplm.kernels.relu import relu_bwd, relu_fwd

X = np.array([[-2.0, -0.5, 0.0], [0.25, 1.0, 3.0]])
DY = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, -6.0]])


@on_places("shape", [(2, 3), (6,)], elsewhere=(2, 3))
def test_known_values(place: Place, shape):
    """At 0 the gradient is 0. Nothing is rounded."""
    y, saved = pure(place.backend, relu_fwd, place.array(X.reshape(shape)))
    (dx,) = pure(place.backend, lambda dy: relu_bwd(dy, saved), place.array(DY.reshape(shape)))
    expected = np.array([0, 0, 0, 0.25, 1, 3]).reshape(shape)
    assert_close(place.backend, y, expected, dtype=place.dtype, bound=0.0)
    assert_close(
        place.backend, dx, DY.reshape(shape) * (expected > 0), dtype=place.dtype, bound=0.0
    )
