"""The averaged weights."""

import numpy as np

from tests.helpers import assert_on, frozen, to_numpy
from xplm.train.ema import ema_decay, ema_update


def test_by_hand():
    average = {"w": np.array([4.0, 0.0])}
    average = ema_update(average, {"w": np.array([0.0, 8.0])}, 0.75)
    np.testing.assert_array_equal(average["w"], [3.0, 2.0])
    average = ema_update(average, {"w": np.array([3.0, 2.0])}, 0.75)
    np.testing.assert_array_equal(average["w"], [3.0, 2.0])


def test_weights_add_up_to_one():
    rng = np.random.default_rng(0)
    path = rng.standard_normal((6, 3))
    average = {"w": frozen(path[0])}
    for weights in path[1:]:
        average = ema_update(average, {"w": frozen(weights)}, 0.9)
    shares = np.array([0.9**5, *(0.1 * 0.9 ** (5 - i) for i in range(1, 6))])
    np.testing.assert_allclose(shares.sum(), 1.0, rtol=1e-15)
    np.testing.assert_allclose(average["w"], shares @ path, rtol=1e-14)


def test_every_backend_keeps_its_arrays(backend):
    host = np.array([1.0, 2.0], np.float32)
    average = ema_update({"w": backend.from_host(host)}, {"w": backend.from_host(3 * host)}, 0.5)
    assert_on(backend, average["w"], dtype="float32", shape=(2,))
    np.testing.assert_array_equal(to_numpy(backend, average["w"]), 2 * host)


def test_the_first_steps_forget_more():
    assert [ema_decay(0.99, step) for step in (0, 8, 890, 100_000)] == [0.1, 0.5, 0.99, 0.99]
    assert ema_decay(0.05, 0) == 0.05
