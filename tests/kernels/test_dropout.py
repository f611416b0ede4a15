import numpy as np

from tests.helpers import Place, assert_close, pure
from xplm.kernels.dropout import dropout_bwd, dropout_fwd


def test_what_is_kept_is_scaled_up_and_the_rest_is_zero(place):
    keep = place.backend.from_host(np.array([True, False, True]))
    y, saved = pure(place.backend, dropout_fwd, place.array([1, 2, -3]), keep, rate=0.5)
    assert_close(place.backend, y, np.array([2, 0, -6]), dtype=place.dtype, bound=0)
    dx, none = dropout_bwd(place.array([1, 1, 4]), saved)
    assert none is None
    assert_close(place.backend, dx, np.array([2, 0, 8]), dtype=place.dtype, bound=0)


def test_the_mean_is_kept(backend):
    keep = np.random.default_rng(6).random(40_000) >= 0.25
    x = Place(backend, "float32").array(np.ones(40_000))
    y, _ = dropout_fwd(x, backend.from_host(keep), rate=0.25)
    mean = float(backend.to_host(y).mean())
    # Four standard deviations of a mean of 40,000 coins of 3/4, each worth 4/3.
    assert abs(mean - 1) < 4 * (0.25 / 0.75 / 40_000) ** 0.5
