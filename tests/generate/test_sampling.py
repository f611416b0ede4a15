"""Sampling: numbers that can be worked out by hand, then distributions against transformers."""

import numpy as np
import pytest

from xplm.errors import RequestError
from xplm.generate.options import SamplingOptions
from xplm.generate.sampling import (
    apply_count_penalties,
    apply_logit_bias,
    apply_min_p,
    apply_repetition_penalty,
    apply_temperature,
    apply_top_k,
    apply_top_p,
    choose_token,
    log_normaliser,
    make_coin,
    make_transforms,
    rank_tokens,
    sample,
)


def logits_of(*probs: float) -> np.ndarray:
    """Logits whose softmax is the given probabilities."""
    with np.errstate(divide="ignore"):
        logits = np.log(np.asarray(probs))
    logits.flags.writeable = False
    return logits


def kept(logits: np.ndarray) -> list[int]:
    return np.flatnonzero(np.isfinite(logits)).tolist()


def test_greedy_takes_the_lowest_id_of_equal_logits():
    assert choose_token(np.float32([1, 3, 3, 2]), [0], SamplingOptions()).token == 1


def test_temperature_divides_the_distances():
    np.testing.assert_allclose(
        apply_temperature(np.float32([1, 3]), 0.5), [-4.0, 0.0]
    )  # exact in binary


@pytest.mark.parametrize("temperature", [1e-300, 5e-324, 1e300])
def test_extreme_temperatures_stay_defined(temperature):
    logits = apply_temperature(np.float32([-50, 3, 2]), temperature)
    assert not np.isnan(logits).any()
    assert logits[1] == 0.0


def test_top_k_keeps_k_and_ties_with_the_last():
    assert kept(apply_top_k(logits_of(0.1, 0.4, 0.3, 0.2), 2)) == [1, 2]
    assert kept(apply_top_k(logits_of(0.25, 0.25, 0.5), 2)) == [0, 1, 2]
    assert kept(apply_top_k(logits_of(0.5, 0.5), 5)) == [0, 1]


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [(0.01, [1]), (0.5, [1]), (0.51, [0, 1]), (0.75, [0, 1]), (0.8, [0, 1, 2]), (1.0, [0, 1, 2])],
)
def test_top_p_keeps_the_smallest_set_that_reaches_p(top_p, expected):
    logits = np.log(np.float64([1, 2, 1]))  # probabilities of 1/4, 1/2 and 1/4
    assert kept(apply_top_p(logits, top_p)) == expected


def test_top_p_ignores_tokens_already_dropped():
    assert kept(apply_top_p(logits_of(0.0, 0.6, 0.0, 0.4), 1.0 - 1e-9)) == [1, 3]


def test_min_p_is_relative_to_the_likeliest():
    assert kept(apply_min_p(logits_of(0.6, 0.31, 0.09), 0.5)) == [0, 1]
    assert kept(apply_min_p(logits_of(0.6, 0.29, 0.11), 0.5)) == [0]
    assert kept(apply_min_p(logits_of(0.4, 0.4, 0.2), 1.0)) == [0, 1]


def test_repetition_penalty_pushes_both_signs_down_once():
    logits = np.float32([2, -2, 2, -2])
    np.testing.assert_array_equal(apply_repetition_penalty(logits, [0, 1, 0], 2.0), [1, -4, 2, -2])


def test_a_bias_is_added_once():
    np.testing.assert_array_equal(
        apply_logit_bias(np.float32([2, -2, 2]), ((0, -100.0), (2, 0.5))), [-98, -2, 2.5]
    )


def test_penalties_count_tokens():
    logits = np.float32([2, -2, 2, -2])
    counted = apply_count_penalties(logits, [0, 1, 0], 0.5, 0.25)
    np.testing.assert_array_equal(counted, [0.75, -2.75, 2, -2])
    np.testing.assert_array_equal(apply_count_penalties(logits, [], 0.5, 0.25), logits)


def test_penalties_of_counts_leave_the_prompt_out_and_follow_that_of_repetition():
    options = SamplingOptions(
        logit_bias={2: 4.0}, repetition_penalty=2.0, frequency_penalty=1.0, presence_penalty=0.5
    )
    logits = np.float32([2, -2, 2, -2])
    for transform in make_transforms(options, n_prompt=2):
        logits = transform(logits, [0, 1, 2, 1, 2])
    np.testing.assert_array_equal(logits, [1, -5.5, 0.5, -2])  # 2 / 2, -2 x 2 - 1.5, 6 / 2 - 2.5
    choice = choose_token(np.float32([2, -2, 2, -2]), [0, 1, 2, 1, 2], options, n_prompt=2)
    assert choice.token == 0


def test_the_likeliest_tokens_have_the_models_own_logprobs():
    options = SamplingOptions(top_logprobs=3, temperature=2.0, top_k=1, logit_bias={0: 50.0})
    choice = choose_token(logits_of(0.125, 0.25, 0.5, 0.125), [0], options)
    assert choice.token == 0
    assert choice.logprob == np.log(0.125)
    assert [token for token, _ in choice.top] == [2, 1, 0]  # of equal ones the lowest id
    np.testing.assert_allclose(
        [logprob for _, logprob in choice.top], np.log([0.5, 0.25, 0.125]), rtol=1e-15
    )
    assert [token for token, _ in rank_tokens(np.float32([1, 3]), 5, 0.0)] == [1, 0]
    assert choose_token(logits_of(0.5, 0.5), [0], SamplingOptions()).top == []


def test_no_token_but_those_allowed_is_chosen():
    logits = np.float32([1, 9, 2, 3])
    allowed = np.where([True, False, True, True], logits, -np.inf)
    greedy = choose_token(logits, [0], SamplingOptions(), allowed=allowed)
    assert greedy.token == 3
    assert greedy.logprob == pytest.approx(3 - log_normaliser(logits)[0], abs=1e-12)
    sampled = SamplingOptions(temperature=2.0, top_p=0.9)
    assert 1 not in {
        choose_token(logits, [0] * n, sampled, allowed=allowed).token for n in range(50)
    }
    with pytest.raises(RequestError, match="cannot be met"):
        choose_token(logits, [0], sampled, allowed=np.full(4, -np.inf))


@pytest.mark.parametrize("spread", [0.0, 0.1, 2.5, 30.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_large_vocabulary_is_cut_and_drawn_as_sorting_and_summing_all_of_it_do(spread, dtype):
    rng = np.random.default_rng(7)
    for n in range(6):
        logits = (spread * rng.normal(size=5000)).astype(dtype)
        logits[rng.integers(0, 5000, 2000)] = logits[rng.integers(0, 5000, 2000)]  # ties
        logits[rng.integers(0, 5000, 500 * n)] = -np.inf
        probs = np.exp(logits.astype(np.float64) - np.max(logits))
        order = np.argsort(-logits, kind="stable")
        for share in (1e-12, 0.1, 0.5, 0.9, 0.999, 1 - 1e-9, 1.0):
            cumulative = np.cumsum(probs[order])
            count = 1 + np.searchsorted(cumulative, share * cumulative[-1])
            cut = apply_top_p(logits, share)
            assert cut.dtype == dtype
            expected = np.full_like(logits, -np.inf)
            expected[order[:count]] = logits[order[:count]]
            np.testing.assert_array_equal(cut, expected)
        cumulative = np.cumsum(probs)
        exact = cumulative[rng.integers(0, 5000, 20)] / cumulative[-1]
        for coin in [0.0, *rng.random(20), *exact[exact < 1], np.nextafter(1.0, 0.0)]:
            expected = np.searchsorted(cumulative, coin * cumulative[-1], side="right")
            assert sample(logits, coin) == expected


def test_a_coin_picks_the_token_whose_interval_it_is_in():
    logits = logits_of(0.0, 0.25, 0.0, 0.75, 0.0)
    coins = {0.0: 1, 0.24: 1, 0.26: 3, np.nextafter(1.0, 0.0): 3}
    assert {coin: sample(logits, coin) for coin in coins} == coins


def test_coins_depend_on_seed_and_position_alone():
    coins = [make_coin(seed, position) for seed in (0, 1, 2**64 - 1) for position in range(100)]
    assert len(set(coins)) == len(coins)
    assert make_coin(1, 7) == make_coin(1, 7)
    assert min(coins) >= 0.0
    assert max(coins) < 1.0
    # 300 uniform coins: their mean has a standard deviation of 1 / sqrt(12 * 300) = 0.017; five of them.
    assert abs(np.mean(coins) - 0.5) < 0.085


def test_samples_follow_the_distribution():
    n = 4000
    options = SamplingOptions(temperature=1.0, seed=3)
    logits = logits_of(0.5, 0.3, 0.2)
    chosen = [choose_token(logits, [0] * i, options).token for i in range(n)]
    counts = np.bincount(chosen, minlength=3)
    # A count is binomial: standard deviation at most sqrt(n / 4); five of them.
    np.testing.assert_allclose(counts, [0.5 * n, 0.3 * n, 0.2 * n], atol=5 * np.sqrt(n / 4))


def test_log_normaliser_is_exact_for_powers_of_two():
    logits = np.log(np.float64([[1, 1, 2], [4, 2, 2]]))
    np.testing.assert_allclose(log_normaliser(logits), np.log([[4.0], [8.0]]), rtol=1e-15)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused(bad):
    with pytest.raises(RequestError, match="logits must be finite; the model gave"):
        log_normaliser(np.float32([0.0, bad, 1.0]))


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.7},
        {"temperature": 1.3, "top_k": 11},
        {"temperature": 1.0, "top_p": 0.85},
        {"temperature": 1.0, "min_p": 0.04},
        {"temperature": 0.9, "top_k": 40, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.2},
    ],
)
def test_distributions_equal_transformers(options):
    torch = pytest.importorskip("torch", reason="transformers' processors need torch")
    transformers = pytest.importorskip("transformers", reason="the oracle")
    logits = np.random.default_rng(5).normal(0.0, 3.0, 200)
    ids = [3, 5, 3, 100]

    processors = {
        "repetition_penalty": transformers.RepetitionPenaltyLogitsProcessor,
        "temperature": transformers.TemperatureLogitsWarper,
        "top_k": transformers.TopKLogitsWarper,
        "top_p": transformers.TopPLogitsWarper,
        "min_p": transformers.MinPLogitsWarper,
    }
    expected = torch.asarray(logits[None])
    for name, processor in processors.items():
        if name in options:
            expected = processor(options[name])(torch.asarray([ids]), expected)
    expected = torch.softmax(expected, -1)[0].numpy()

    ours = logits
    for transform in make_transforms(SamplingOptions(**options)):
        ours = transform(ours, ids)
    # Both are float64; transformers sums 200 probabilities in another order.
    np.testing.assert_allclose(np.exp(ours - log_normaliser(ours)), expected, atol=1e-13)


def test_a_repetition_penalty_that_overflows_takes_the_largest_logit():
    options = SamplingOptions(repetition_penalty=1e-308, temperature=1.0, top_p=0.9)
    assert choose_token(np.float32([1.0, 9.0, 1.0]), [1], options).token == 1
