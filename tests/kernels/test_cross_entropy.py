import math

import numpy as np

from tests.helpers import Place, assert_close, pure, rounding_bound, to_numpy
from tests.places import on_places
from xplm.kernels.cross_entropy import cross_entropy_bwd, cross_entropy_fwd

IGNORED = -100


def naive(x, targets, smoothing=0.0, z=0.0):
    """Loss and its gradient row by row, from the definition of the smoothed target distribution."""
    N, V = x.shape
    losses, dx = np.zeros(N), np.zeros((N, V))
    for n in range(N):
        if targets[n] == IGNORED:
            continue
        q = np.full(V, smoothing / V)
        q[targets[n]] += 1 - smoothing
        lse = math.log(np.sum(np.exp(x[n])))
        losses[n] = -np.sum(q * (x[n] - lse)) + z * lse**2
        p = np.exp(x[n] - lse)
        dx[n] = p - q + 2 * z * lse * p
    return losses, dx


def test_equal_logits_cost_the_log_of_the_vocabulary(backend):
    place = Place(backend, "float32")
    losses, _ = pure(
        backend,
        cross_entropy_fwd,
        place.array(np.zeros((2, 4))),
        place.ids([3, IGNORED]),
        ignore_index=IGNORED,
    )
    expected = np.array([math.log(4), 0])
    assert_close(backend, losses, expected, dtype="float32", bound=4 * 2.0**-24 * expected)


def test_a_certain_and_right_model_costs_nothing_and_a_wrong_one_its_margin(numpy_backend):
    x = np.array([[1000.0, 0, 0], [1000.0, 0, 0]])
    losses, saved = cross_entropy_fwd(x, np.array([0, 1]), ignore_index=IGNORED)
    np.testing.assert_array_equal(losses, [0, 1000])
    dx, _ = cross_entropy_bwd(np.ones(2), saved)
    np.testing.assert_array_equal(dx, [[0, 0, 0], [1, -1, 0]])


def test_the_loss_has_the_islands_dtype(numpy_backend):
    # A Python number beside ml_dtypes' bfloat16 makes float32 of it.
    narrow = numpy_backend.dtypes["bfloat16"]
    x, targets = np.zeros((1, 4), np.float32), np.array([2])
    for options in ({}, {"label_smoothing": 0.1}, {"z_loss": 0.1}):
        losses, _ = cross_entropy_fwd(x, targets, ignore_index=IGNORED, island=narrow, **options)
        assert losses.dtype == narrow


@on_places(("smoothing", "z"), [(0, 0), (0.1, 0), (0, 0.02), (0.3, 0.01)], elsewhere=(0.3, 0.01))
def test_equals_the_definition(place, smoothing, z):
    rng = np.random.default_rng(1)
    x = place.array(2 * rng.standard_normal((5, 7)))
    targets = np.array([0, 6, IGNORED, 3, 3])
    losses, saved = pure(
        place.backend,
        cross_entropy_fwd,
        x,
        place.ids(targets),
        ignore_index=IGNORED,
        label_smoothing=smoothing,
        z_loss=z,
    )
    xh = to_numpy(place.backend, x)
    expected, expected_dx = naive(xh, targets, smoothing, z)
    bound = rounding_bound(place.wide, terms=7, magnitude=abs(xh).max() + 3)
    assert_close(place.backend, losses, expected, dtype=place.wide, bound=bound)

    dx, none = cross_entropy_bwd(place.array(np.ones(5), place.wide), saved)
    assert none is None
    bound = rounding_bound(place.dtype, terms=7, magnitude=1.0, wide=place.wide)
    assert_close(place.backend, dx, expected_dx, dtype=place.dtype, bound=bound)


def test_gradients_of_a_row_sum_to_zero_without_z_loss(numpy_backend):
    x = np.random.default_rng(2).standard_normal((4, 9))
    _, saved = cross_entropy_fwd(x, np.arange(4), ignore_index=IGNORED, label_smoothing=0.2)
    dx, _ = cross_entropy_bwd(np.ones(4), saved)
    np.testing.assert_allclose(dx.sum(axis=1), 0, atol=9 * 2.0**-53)
