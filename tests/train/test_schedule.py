"""Learning rates, step by step."""

import math
from itertools import pairwise

import pytest

from xplm.errors import RequestError
from xplm.train.schedule import SHAPES, make_schedule


def rates(kind, steps, **options):
    schedule = make_schedule(kind, steps=steps, **options)
    return [schedule(step) for step in range(steps + 2)]


def test_constant_by_hand():
    assert rates("constant", 4, lr=0.3, min_lr=0.1) == [0.3] * 6
    assert rates("constant", 4, lr=0.3, warmup_steps=2) == [0.3 / 3, 2 * 0.3 / 3, *[0.3] * 4]


def test_linear_by_hand():
    assert rates("linear", 4, lr=8.0, min_lr=4.0) == [8.0, 7.0, 6.0, 5.0, 4.0, 4.0]
    assert rates("linear", 5, lr=8.0, warmup_steps=1) == [4.0, 8.0, 6.0, 4.0, 2.0, 0.0, 0.0]
    late = rates("linear", 5, lr=8.0, decay_steps=2)
    assert late == [8.0, 8.0, 8.0, 8.0, 4.0, 0.0, 0.0]


def test_cosine_by_hand():
    half = math.sqrt(0.5)
    expected = [4.0, 3.0 + half, 3.0, 3.0 - half, 2.0, 2.0]
    assert rates("cosine", 4, lr=4.0, min_lr=2.0) == pytest.approx(expected, rel=1e-15)


def test_wsd_by_hand():
    expected = [4.0, 4.0, 4.0, 2.0, 4.0 - 4.0 * math.sqrt(0.5), 4.0 - 4.0 * math.sqrt(0.75)]
    actual = rates("wsd", 6, lr=4.0, decay_steps=4)
    assert actual == pytest.approx([*expected, 0.0, 0.0], rel=1e-15)


def test_wsd_decays_over_the_last_fifth():
    actual = rates("wsd", 100, lr=1.0, warmup_steps=10)
    assert actual[10:81] == [1.0] * 71
    assert all(a > b for a, b in pairwise(actual[80:101]))


def test_cosine_is_nanogpts_bitwise():
    lr, low, warmup, decay_iters = 1e-3, 1e-4, 100, 2000  # its CPU recipe for tinyshakespeare
    schedule = make_schedule("cosine", lr=lr, min_lr=low, warmup_steps=warmup, steps=decay_iters)
    for it in range(100):
        assert schedule(it) == lr * (it + 1) / 101
    for it in range(100, 2001):
        share = (it - 100) / 1900
        assert schedule(it) == 1e-4 + 0.5 * (1.0 + math.cos(math.pi * share)) * (1e-3 - 1e-4)
    assert schedule(2001) == schedule(9999) == 1e-4


@pytest.mark.parametrize("kind", SHAPES)
def test_rates_rise_to_lr_and_never_leave_the_range(kind):
    actual = rates(kind, 50, lr=0.5, min_lr=0.125, warmup_steps=7)
    assert all(a < b for a, b in pairwise(actual[:8]))
    assert actual[7] == 0.5
    assert all(a >= b for a, b in pairwise(actual[7:]))
    assert actual[-1] == (0.5 if kind == "constant" else 0.125)


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 1), (3, 10)])
def test_a_run_may_end_in_its_warm_up(kind, steps, warmup):
    schedule = make_schedule(kind, lr=1.0, warmup_steps=warmup, steps=steps)
    for step in range(steps):
        assert 0.0 < schedule(step) <= 1.0
    assert 0.0 <= schedule(steps) <= 1.0


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("exponential", {}, "constant, linear, cosine, wsd"),
        ("cosine", {"min_lr": 2.0}, "0 <= min_lr <= lr must hold; got min_lr = 2.0, lr = 1.0"),
        ("cosine", {"lr": math.nan}, "0 <= min_lr <= lr must hold"),
        ("linear", {"steps": 0}, "steps at least 1"),
        ("linear", {"warmup_steps": -1}, "warmup_steps must be at least 0"),
        ("wsd", {"decay_steps": 8, "warmup_steps": 3}, "decay_steps must be at least 1"),
        ("wsd", {"decay_steps": 0}, "decay_steps must be at least 1"),
        ("constant", {"decay_steps": 5}, "in a schedule that decays"),
    ],
)
def test_contradictions_are_refused_in_one_line(kind, options, words):
    with pytest.raises(RequestError) as caught:
        make_schedule(kind, **({"lr": 1.0, "steps": 10} | options))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
