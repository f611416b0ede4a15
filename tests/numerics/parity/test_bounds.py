"""Balls hold what arithmetic in their format can give, and little more."""

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from xplm.numerics.parity.bounds import (
    Arithmetic,
    Ball,
    exact,
    may_round,
    operand,
    underflow,
    unit_roundoff,
    where,
)
from xplm.precision import HOST_DTYPES

NARROW = [HOST_DTYPES[name] for name in ("float32", "float16", "bfloat16")]


def holds(ball, values):
    """Whether every number is in its ball."""
    return np.all(np.abs(np.asarray(values, np.float64) - ball.mid) <= ball.rad)


@pytest.mark.parametrize(
    ("name", "u"),
    [("float64", 2.0**-53), ("float32", 2.0**-24), ("float16", 2.0**-11), ("bfloat16", 2.0**-8)],
)
def test_unit_roundoff_is_half_a_unit_in_the_last_place_of_1(name, u):
    assert unit_roundoff(HOST_DTYPES[name]) == u


def test_underflow_is_gradual_in_float16_and_may_be_abrupt_elsewhere():
    assert underflow(np.dtype(np.float16)) == 2.0**-25
    assert underflow(np.dtype(np.float32)) == 2.0**-126


def test_gamma_stays_below_highams_and_above_n_u():
    w = Arithmetic(np.dtype(np.float32))
    for n in (1, 10, 1000):
        assert n * w.u <= w.gamma(n) * (1 + 1e-12)
        assert w.gamma(n) <= n * w.u / (1 - n * w.u)
    assert np.isfinite(Arithmetic(np.dtype(ml_dtypes.bfloat16)).gamma(1000))


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize(
    ("name", "function"),
    [("plus", np.add), ("minus", np.subtract), ("times", np.multiply), ("over", np.divide)],
)
def test_an_operation_of_the_format_lies_in_the_ball(dtype, name, function):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(500).astype(dtype) for _ in "ab")
    ball = getattr(Arithmetic(dtype), name)(exact(a), exact(b))
    assert holds(ball, function(a, b).astype(dtype))
    assert np.all(
        ball.rad <= 1.01 * (4 * unit_roundoff(dtype) * np.abs(ball.mid) + underflow(dtype))
    )


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize(
    ("name", "function"),
    [("exp", np.exp), ("tanh", np.tanh), ("log", np.log), ("root", np.sqrt)],
)
def test_a_function_of_a_rounded_argument_lies_in_the_ball(dtype, name, function):
    x = np.random.default_rng(1).uniform(1.5, 8.0, 500)
    ball = getattr(Arithmetic(dtype), name)(Ball(x, unit_roundoff(dtype) * x))
    assert holds(ball, function(x.astype(dtype)))


def test_sigmoid_holds_both_formulas():
    x = np.linspace(-90.0, 90.0, 401).astype(np.float32)
    ball = Arithmetic(x.dtype).sigmoid(exact(x))
    e = np.exp(np.minimum(x, np.float32(80.0)))
    assert holds(ball, e / (np.float32(1.0) + e))
    with np.errstate(over="ignore"):
        assert holds(ball, np.float32(1.0) / (np.float32(1.0) + np.exp(-x)))


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_sums_and_products_hold_every_order_of_summation(dtype):
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((3, 40)).astype(dtype), rng.standard_normal((40, 2)).astype(dtype)
    w = Arithmetic(dtype)
    product, total = w.matmul(exact(a), exact(b)), w.sum(exact(a), 1)
    for _ in range(20):
        order = rng.permutation(40)
        found, summed = np.zeros((3, 2), dtype), np.zeros(3, dtype)
        for n in order:
            found = (found + (a[:, n, None] * b[n]).astype(dtype)).astype(dtype)
            summed = (summed + a[:, n]).astype(dtype)
        assert holds(product, found)
        assert holds(total, summed)


def test_a_products_centre_is_right_to_float64():
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((1, 30)), rng.standard_normal((30, 1))
    true = sum(Fraction(x) * Fraction(y) for x, y in zip(a[0], b[:, 0], strict=True))
    ball = Arithmetic(np.dtype(np.float64)).matmul(exact(a), exact(b))
    assert abs(Fraction(ball.mid[0, 0]) - true) <= Fraction(ball.rad[0, 0])


def test_radii_of_operands_are_carried_over():
    w = Arithmetic(np.dtype(np.float64))
    a, b = Ball(np.array([2.0]), np.array([0.5])), Ball(np.array([-4.0]), np.array([0.25]))
    for ball, corners in (
        (w.plus(a, b), [-2.75, -1.25]),
        (w.minus(a, b), [5.25, 6.75]),
        (w.times(a, b), [2.5 * -4.25, 1.5 * -3.75]),
        (w.over(a, b), [2.5 / -3.75, 1.5 / -4.25]),
        (w.matmul(a.map(np.atleast_2d), b.map(np.atleast_2d)), [2.5 * -4.25, 1.5 * -3.75]),
    ):
        assert holds(ball.map(np.ravel), corners)


def test_a_subnormal_bfloat16_operand_may_be_read_as_zero_and_no_other_number():
    for name, least in (("bfloat16", 2.0**-126), ("float16", 0.0), ("float32", 0.0)):
        x = np.array([[2.0**-130, -(2.0**-14), 0.0]]).astype(HOST_DTYPES[name])
        mid, rad = operand(x)
        np.testing.assert_array_equal(mid, x.astype(np.float64))
        np.testing.assert_array_equal(rad, np.where(np.abs(mid) < least, np.abs(mid), 0.0))
    small, large = (np.array([[2.0**e]]).astype(HOST_DTYPES["bfloat16"]) for e in (-130, 120))
    assert holds(Arithmetic(np.dtype(np.float32)).matmul(operand(small), operand(large)), [[0.0]])


def test_what_may_be_stored_is_held_before_and_after():
    x = np.array([1.0 + 2.0**-9, -3.0, 1e-9])
    ball = may_round(Ball(x, np.zeros(3)), HOST_DTYPES["bfloat16"])
    assert holds(ball, x)
    assert holds(ball, x.astype(HOST_DTYPES["bfloat16"]))
    assert ball.rad[1] == 0.0
    assert ball.rad[0] <= 2.0**-10 * (1 + 2.0**-50)


def test_where_replaces_radii_too():
    ball = where(np.array([True, False]), Ball(np.array([1.0, 2.0]), np.array([0.1, 0.2])), 0.0)
    assert ball.mid.tolist() == [1.0, 0.0]
    assert ball.rad.tolist() == [0.1, 0.0]
