"""The checker itself, on functions whose derivatives are known."""

import numpy as np
import pytest

from xplm.numerics.gradient_check import (
    SMALLEST_SHARE,
    check_gradients,
    directional_derivative,
    numerical_gradient,
    relative_error,
    relative_errors,
)


def test_a_quartic_is_differentiated_to_rounding():
    x = np.array([[0.5, -2.0], [3.0, 0.0]])
    gradient = numerical_gradient(lambda: float(np.sum(x**4)), x)
    # The formula is exact for a quartic; what is left is rounding, 2^-53 * 82 / 5e-4.
    np.testing.assert_allclose(gradient, 4 * x**3, rtol=0, atol=1e-10)


def test_the_error_falls_with_the_fourth_power_of_the_step():
    x = np.array([0.7])
    gradient = numerical_gradient(lambda: float(np.sin(8 * x[0])), x)
    # h^4 f^(5) / 30 = 6e-14 * 8^5 / 30
    assert abs(gradient[0] - 8 * np.cos(5.6)) < 1e-10


def test_x_is_restored_and_chosen_entries_come_in_order():
    x = np.array([1.0, 2.0, 3.0])
    before = x.copy()
    gradient = numerical_gradient(lambda: float(np.sum(x * x)), x, np.array([2, 0]))
    np.testing.assert_allclose(gradient, [6, 2], rtol=1e-11)
    np.testing.assert_array_equal(x, before)


def test_a_view_that_a_copy_would_be_made_of_is_refused():
    x = np.zeros((2, 3)).T
    with pytest.raises(AssertionError):
        numerical_gradient(lambda: 0.0, x)


def test_relative_error_by_hand():
    assert relative_error(np.array([1.0, 2.0]), np.array([1.0, 4.0])) == 0.5
    assert relative_error(np.array([0.0]), np.array([0.0])) == 0.0
    assert relative_error(np.array([0.5]), np.array([0.0])) == 0.5
    assert relative_error(np.array([0.5]), np.array([0.0]), smallest=2.0) == 0.25


@pytest.mark.parametrize(
    "analytic", [np.array([[1.0]]), np.array([np.nan]), np.array([np.inf]), np.array([1.0, 1.0])]
)
def test_what_cannot_be_compared_is_infinitely_wrong(analytic):
    assert relative_error(analytic, np.array([1.0])) == float("inf")


def test_a_gradient_of_zero_is_measured_against_the_others():
    expected = {"weight": np.array([2.0]), "bias": np.array([0.0])}
    rounding = {"weight": np.array([2.0]), "bias": np.array([1e-16])}
    errors = relative_errors(rounding, expected)
    assert errors == {"weight": 0.0, "bias": 1e-16 / (2.0 * SMALLEST_SHARE)}
    mistaken = {"weight": np.array([2.0]), "bias": np.array([1e-6])}
    assert relative_errors(mistaken, expected)["bias"] > 1e-4


def test_chosen_entries_hold_the_largest():
    x = np.linspace(0.0, 1.0, 101)
    wrong = 2 * x
    wrong[-1] += 1e-3  # in the largest entry alone
    (error,) = check_gradients(lambda: float(np.sum(x * x)), {"x": x}, {"x": wrong}, entries=4)
    assert error.argument == "x"
    assert error.n_compared <= 4
    assert abs(error.error - 5e-4) < 1e-9


def test_a_direction_sums_the_gradient_and_restores_x():
    x = np.array([[0.5, -2.0], [3.0, 1.0]])
    before = x.copy()
    signs = np.array([[1.0, -1.0], [-1.0, 1.0]])
    found = directional_derivative(lambda: float(np.sum(x**4)), x, signs)
    # Exact but for rounding, as above, times sqrt(4).
    assert abs(found - np.sum(4 * before**3 * signs)) < 2e-10
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("seed", range(5))
def test_a_direction_finds_the_one_number_that_is_wrong(seed):
    """Seven numbers of a thousand are compared one by one, and the wrong one is seldom among them."""
    x = np.random.default_rng(seed).standard_normal(1000)
    wrong = 2 * x
    smallest = int(np.argmin(np.abs(x)))
    wrong[smallest] += 1e-3
    arrays = {"x": x}
    (error,) = check_gradients(
        lambda: float(np.sum(x * x)), arrays, {"x": wrong}, entries=7, seed=seed
    )
    assert (error.n_compared, error.n_numbers) == (7, 1000)
    # The sum along the direction may be longer than the gradient, seldom by more than 4 standard deviations.
    assert 1 / 4 <= error.error * np.linalg.norm(wrong) / 1e-3 <= 1.001
    (right,) = check_gradients(lambda: float(np.sum(x * x)), arrays, {"x": 2 * x}, entries=7)
    assert right.error < 1e-10


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1.0 + 1.0j])
def test_a_direction_through_what_is_no_real_number_is_never_right(bad):
    x = np.ones(100)
    broken = np.where(np.arange(100) == 50, bad, 2 * x)
    for seed in range(3):
        (error,) = check_gradients(
            lambda: float(np.sum(x * x)), {"x": x}, {"x": broken}, entries=2, seed=seed
        )
        assert error.error == np.inf


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1.0 + 1.0j])
def test_what_is_no_real_number_is_never_right(bad):
    good, broken = np.array([1.0, 2.0]), np.array([1.0, bad])
    assert relative_error(good, good) == 0.0
    assert relative_error(broken, good) == np.inf
    assert relative_error(good, broken) == np.inf
    assert relative_errors({"x": good, "y": good}, {"x": good, "y": broken})["y"] == np.inf
