import math

import numpy as np
import pytest

from tests.helpers import Place, assert_close, pure, rounding_bound, to_numpy
from tests.places import on_places
from xplm.kernels.router import choose_experts, router_bwd, router_fwd

SOFTMAX = {"scores": "softmax", "is_normalised": False, "factor": 1.0}
BY_SUM = {"scores": "softmax", "is_normalised": True, "factor": 1.0}


def weights_of(logits, chosen, *, scores, is_normalised, factor):
    """One token at a time."""
    weights = np.zeros(chosen.shape)
    for n, row in enumerate(logits):
        e = np.exp(row - row.max())
        p = e / e.sum() if scores == "softmax" else 1 / (1 + np.exp(-row))
        total = sum(p[i] for i in chosen[n]) if is_normalised else 1.0
        weights[n] = [factor * p[i] / total for i in chosen[n]]
    return weights


@pytest.mark.nightly_on("jax")
def test_known_values(backend):
    # The scores are 1/8, 1/4 and 5/8.
    place = Place(backend, "float64")
    logits, chosen = place.array([[0, math.log(2), math.log(5)]]), place.ids([[2, 1]])
    bound = 16 * 2.0**-53
    w, _ = pure(backend, router_fwd, logits, chosen, **SOFTMAX)
    assert_close(backend, w, np.array([[5 / 8, 1 / 4]]), dtype="float64", bound=bound)
    w, _ = pure(backend, router_fwd, logits, chosen, **BY_SUM)
    assert_close(backend, w, np.array([[5 / 7, 2 / 7]]), dtype="float64", bound=bound)
    w, _ = pure(
        backend, router_fwd, logits, chosen, scores="sigmoid", is_normalised=False, factor=3.0
    )
    assert_close(backend, w, np.array([[5 / 2, 2]]), dtype="float64", bound=4 * bound)


@on_places(
    ("scores", "is_normalised"),
    [("softmax", False), ("softmax", True), ("sigmoid", False), ("sigmoid", True)],
    elsewhere=("sigmoid", True),
)
def test_equals_the_formula(place, scores, is_normalised):
    rng = np.random.default_rng(3)
    logits = place.array(2 * rng.standard_normal((5, 7)))
    chosen = np.argsort(rng.random((5, 7)), axis=1)[:, :3]
    options = {"scores": scores, "is_normalised": is_normalised, "factor": 2.5}
    w, _ = pure(place.backend, router_fwd, logits, place.ids(chosen), **options)
    expected = weights_of(to_numpy(place.backend, logits), chosen, **options)
    bound = rounding_bound(place.dtype, terms=24, magnitude=expected)
    assert_close(place.backend, w, expected, dtype=place.dtype, bound=bound)


def test_one_expert_and_weights_divided_by_their_sum_leave_the_router_without_a_gradient(backend):
    place = Place(backend, "float64")
    logits = place.array(np.random.default_rng(4).standard_normal((6, 5)))
    w, saved = router_fwd(logits, place.ids([[0], [1], [2], [3], [4], [0]]), **BY_SUM)
    assert_close(backend, w, np.ones((6, 1)), dtype="float64", bound=0)
    dlogits, _ = router_bwd(place.array(np.arange(6.0)[:, None] - 2), saved)
    assert_close(backend, dlogits, np.zeros((6, 5)), dtype="float64", bound=0)


def test_scores_that_underflow_divide_by_nothing(backend):
    place = Place(backend, "float32")
    options = {"scores": "sigmoid", "is_normalised": True, "factor": 1.0}
    w, _ = router_fwd(place.array([[-200.0, -300.0]]), place.ids([[0, 1]]), **options)
    assert np.isfinite(to_numpy(backend, w)).all()


def test_the_best_are_chosen_and_of_equal_ones_the_lowest(place):
    logits = place.array([[1, 3, 2, 3], [0, 0, 0, 0], [-1, -2, -3, -0.5]])
    chosen = pure(place.backend, choose_experts, logits, k=2, scores="softmax")
    assert to_numpy(place.backend, chosen).tolist() == [[1, 3], [0, 1], [3, 0]]
    chosen = pure(place.backend, choose_experts, logits, k=2, scores="sigmoid")
    assert to_numpy(place.backend, chosen).tolist() == [[1, 3], [0, 1], [3, 0]]


def test_a_correction_changes_the_choice(place):
    logits, correction = place.array([[0, 0.5, 1]]), place.array([0.25, 0, -1])
    chosen = pure(place.backend, choose_experts, logits, correction, k=2, scores="sigmoid")
    assert to_numpy(place.backend, chosen).tolist() == [[0, 1]]


def test_experts_of_the_best_groups_alone_can_be_chosen(place):
    logits = place.array([[4, -4, -4, 1, 1, 1, 0, 0, 0], [1, 2, 3, 1, 2, 3, 4, -9, -9]])
    options = {"k": 2, "scores": "sigmoid", "num_groups": 3, "kept_groups": 1}
    best = pure(place.backend, choose_experts, logits, group_score="best", **options)
    assert to_numpy(place.backend, best).tolist() == [[0, 1], [6, 7]]
    two = pure(place.backend, choose_experts, logits, group_score="best two", **options)
    assert to_numpy(place.backend, two).tolist() == [[3, 4], [2, 1]]
    two = choose_experts(logits, group_score="best two", **{**options, "kept_groups": 2, "k": 3})
    assert to_numpy(place.backend, two).tolist() == [[0, 3, 4], [2, 5, 1]]
