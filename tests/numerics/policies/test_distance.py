"""Distances between two models' outputs, on numbers that a hand can work out."""

import math

import numpy as np
import pytest

from tests.helpers import UNIT_ROUNDOFF
from xplm.numerics.policies.distance import (
    NOT_SCORED,
    Outputs,
    compare,
    make_reference,
    total_loss,
)

HALVES = np.log(np.array([[1, 1], [1, 1]], np.float32))  # p = 1/2, 1/2
QUARTER = np.log(np.array([[1, 3], [3, 1]], np.float32))  # q = 1/4, 3/4 and the other way
STREAM = {0: np.array([[3.0, 4.0], [0.0, 1.0]], np.float32)}


def outputs(logits, stream=STREAM, seconds=2.0):
    return Outputs(np.asarray(logits, np.float32), stream, seconds)


def tally(right, own, targets=(0, NOT_SCORED), start=0):
    return compare(make_reference(right), own, targets, start)


def test_the_figures_of_two_known_distributions():
    found = tally(outputs(HALVES + 7.0), outputs(QUARTER - 5.0))
    # KL(1/2 1/2 || 1/4 3/4) = log(4/3) / 2; logits near 12 leave float32's error, a few units of their last place.
    assert found.mean_kl == pytest.approx(
        math.log(4 / 3) / 2, abs=16 * 12 * UNIT_ROUNDOFF["float32"]
    )
    assert found.mean_loss == pytest.approx(math.log(4), abs=16 * 12 * UNIT_ROUNDOFF["float32"])
    assert found.perplexity == pytest.approx(4, rel=1e-4)
    assert (found.n_tokens, found.n_scored, found.n_broken) == (2, 1, 0)
    assert found.agreement == 0.5  # the first of equal logits counts as the likeliest
    assert found.max_error == pytest.approx(12.0, abs=1e-5)  # of log 1 + 7 from log 1 - 5
    assert found.tokens_per_s == 1.0


def test_equal_outputs_have_no_distance_at_all():
    logits = np.random.default_rng(0).standard_normal((2, 50)) * 20
    found = tally(outputs(logits), outputs(logits))
    assert (found.mean_kl, found.max_error, found.agreement) == (0.0, 0.0, 1.0)
    assert found.mean_drift == [0.0]


def test_drift_is_relative_token_by_token():
    moved = {0: np.array([[3.0, 4.5], [0.0, 3.0]], np.float32)}
    found = tally(outputs(HALVES), outputs(HALVES, moved))
    assert found.mean_drift == [pytest.approx((0.5 / 5 + 2 / 1) / 2)]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_predict_nothing(bad):
    broken = HALVES.copy()
    broken[0, 1] = bad
    with np.errstate(invalid="ignore"):
        found = tally(outputs(HALVES), outputs(broken))
    assert (found.n_broken, found.mean_loss, found.perplexity) == (1, math.inf, math.inf)
    assert (found.mean_kl, found.max_error, found.agreement) == (math.inf, math.inf, 0.5)
    assert total_loss(broken, (0, NOT_SCORED)) == math.inf
    assert total_loss(broken, (NOT_SCORED, 0)) == pytest.approx(math.log(2))


def test_positions_fall_into_bins_that_double():
    logits = np.zeros((200, 2), np.float32)
    own = logits.copy()
    own[64:128] = np.log([1, 3])
    own[128:] = np.log([1, 7])
    stream = {0: np.ones((200, 1), np.float32)}
    targets = (NOT_SCORED,) * 200
    found = tally(outputs(logits, stream), outputs(own, stream), targets)
    firsts, kls = zip(*found.kl_by_position, strict=True)
    assert firsts == (0, 64, 128)
    expected = (0.0, math.log(4 / 3) / 2, math.log(16 / 7) / 2)
    np.testing.assert_allclose(kls, expected, atol=1e-6)
    later = tally(outputs(logits, stream), outputs(own, stream), targets, start=400)
    assert [first for first, _ in later.kl_by_position] == [256, 512]


def test_two_texts_add_up():
    one = tally(outputs(HALVES), outputs(QUARTER))
    two = tally(outputs(QUARTER), outputs(HALVES), (1, 1), start=64)
    both = one + two
    assert (both.n_tokens, both.n_scored, both.seconds) == (4, 3, 4.0)
    assert both.loss == one.loss + two.loss
    assert both.max_error == max(one.max_error, two.max_error)
    assert [first for first, _ in both.kl_by_position] == [0, 64]
