"""Every epoch holds every example once, in an order that the seed and the epoch's number give."""

from collections import Counter

import numpy as np

from xplm.train.data.order import draw, epoch_generator


def test_every_epoch_holds_every_example_once() -> None:
    drawn = draw(seed=3, start=0, count=70, n_examples=7)
    assert [epoch for epoch, _ in drawn] == [e for e in range(10) for _ in range(7)]
    for epoch in range(10):
        assert sorted(i for e, i in drawn if e == epoch) == list(range(7))


def test_any_stretch_is_known_without_the_ones_before() -> None:
    whole = draw(seed=3, start=0, count=40, n_examples=7)
    assert draw(seed=3, start=25, count=6, n_examples=7) == whole[25:31]


def test_seeds_and_epochs_have_orders_of_their_own() -> None:
    orders = {tuple(i for _, i in draw(s, e * 50, 50, 50)) for s in range(4) for e in range(4)}
    assert len(orders) == 16


def test_every_place_is_as_likely() -> None:
    # 600 epochs of 3: each example is first about 200 times, standard deviation 11.5.
    firsts = Counter(draw(0, epoch * 3, 1, 3)[0][1] for epoch in range(600))
    assert all(abs(firsts[i] - 200) < 4 * 11.5 for i in range(3))


def test_purposes_have_generators_of_their_own() -> None:
    a, b = (epoch_generator(0, 1, purpose).random(4) for purpose in ("shuffle", "first cut"))
    assert not np.any(a == b)
    np.testing.assert_array_equal(epoch_generator(0, 1, "shuffle").random(4), a)
