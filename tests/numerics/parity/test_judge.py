"""Verdicts on tensors that are small enough to judge by hand."""

import numpy as np
import pytest

from xplm.numerics.parity.bounds import Ball
from xplm.numerics.parity.expected import Expected
from xplm.numerics.parity.judge import BUG, EXACT, ROUNDING, judge, relative_error, roundable_to
from xplm.precision import HOST_DTYPES

BF16 = HOST_DTYPES["bfloat16"]


def expected(mid, rad, dtype=BF16):
    mid = np.atleast_1d(np.asarray(mid, np.float64))
    return Expected(Ball(mid, np.full(mid.shape, rad)), dtype)


def verdict(value, mid, rad):
    return judge("y", np.atleast_1d(np.asarray(value)).astype(BF16), expected(mid, rad))


def test_the_last_rounding_is_undone():
    low, high = roundable_to(np.asarray([1.0, -1.0]).astype(BF16))
    assert (low[0], high[0]) == (1.0 - 2.0**-9, 1.0 + 2.0**-8)
    assert (low[1], high[1]) == (-1.0 - 2.0**-8, -1.0 + 2.0**-9)


@pytest.mark.parametrize("name", HOST_DTYPES)
def test_every_number_lies_in_the_interval_that_rounds_to_it(name):
    x = np.random.default_rng(0).standard_normal(300)
    low, high = roundable_to(x.astype(HOST_DTYPES[name]))
    assert np.all((low <= x) & (x <= high))


def test_a_correctly_rounded_number_is_exact():
    assert verdict(1.0, 1.0 + 2.0**-9, 1e-6).kind == EXACT


def test_a_neighbour_is_rounding_if_the_ball_reaches_it():
    found = verdict(1.0 + 2.0**-7, 1.0 + 2.0**-8 - 1e-6, 4e-6)
    assert found.kind == ROUNDING
    assert found.share == pytest.approx(0.25)


def test_a_neighbour_is_a_bug_if_the_ball_does_not_reach_it():
    found = verdict(1.0 + 2.0**-7, 1.0 + 2.0**-8 - 4e-6, 1e-6)
    assert found.kind == BUG
    assert found.share == pytest.approx(4.0)
    assert "1 of 1 numbers" in found.reason


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0, 1e30])
def test_what_is_no_number_is_a_bug(value):
    assert verdict(value, 1.0, 1e-6).kind == BUG


def test_infinity_is_right_where_the_format_ends():
    found = judge("y", np.array([np.inf], np.float16), expected(65520.0, 1.0, np.dtype(np.float16)))
    assert found.kind != BUG
    found = judge("y", np.array([np.inf], np.float16), expected(65000.0, 1.0, np.dtype(np.float16)))
    assert found.kind == BUG


def test_an_exact_infinity_must_be_there():
    assert verdict(-np.inf, -np.inf, 0.0).kind == EXACT
    assert verdict(1.0, -np.inf, 0.0).kind == BUG
    other = verdict(np.inf, -np.inf, 0.0)
    assert (other.kind, other.share) == (BUG, np.inf)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_an_overflow_has_the_sign_of_its_number(sign):
    dtype = np.dtype(np.float16)
    ball = expected(sign * 65530.0, 1.0, dtype)
    assert judge("y", np.array([sign * np.inf], dtype), ball).kind == EXACT
    assert judge("y", np.array([-sign * np.inf], dtype), ball).kind == BUG


@pytest.mark.parametrize("radius", [np.inf, np.nan])
def test_what_nothing_bounds_is_not_called_exact(radius):
    found = verdict(3.0, 1.0, radius)
    assert (found.kind, found.share) == (ROUNDING, 0.0)


def test_shape_and_dtype_are_part_of_the_result():
    wide = judge("y", np.ones(1, np.float32), expected(1.0, 0.0))
    assert wide.kind == BUG
    assert "must be bfloat16" in wide.reason
    assert judge("y", np.ones((1, 1), BF16), expected(1.0, 0.0)).kind == BUG


def test_one_wrong_number_of_many_is_a_bug():
    mid = np.linspace(1.0, 2.0, 50)
    test = mid.astype(BF16)
    assert judge("y", test, expected(mid, 1e-9)).kind == EXACT
    test[7] = np.nextafter(test[7], np.asarray(np.inf, BF16))
    assert judge("y", test, expected(mid, 1e-9)).kind == BUG


def test_relative_error_is_of_the_largest_number():
    assert relative_error(np.array([1.0, 4.5]), np.array([1.0, 4.0])) == 0.125
    assert relative_error(np.array([0.5]), np.array([0.0])) == 0.5
    assert relative_error(np.zeros(2), np.zeros(3)) == np.inf
