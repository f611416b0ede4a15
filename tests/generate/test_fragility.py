from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from tests.generate.tiny import tiny_model
from xplm.backend import DeviceMemory, load_backend
from xplm.errors import OutOfMemoryError, RequestError
from xplm.generate import fragility
from xplm.generate.fragility import (
    DRAWS,
    QUANTILE,
    Margins,
    TokenFragility,
    compute_margins,
    measure_fragility,
    noisy_engine,
)
from xplm.kernels.linear import linear_fwd
from xplm.models.decoder import EMBEDDING, LM_HEAD
from xplm.precision import Policy

PROMPTS = [[5, 6, 7], [30, 31, 32, 33, 34, 35], [100], [77, 3, 201, 9]]


@pytest.fixture(scope="module")
def lm():
    return tiny_model(3)


@pytest.fixture(scope="module")
def replies(lm):
    return [r.token_ids for r in lm.generate(PROMPTS, max_new_tokens=60, ignore_eos=True)]


def joined(judged, field):
    return np.asarray([getattr(token, field) for tokens in judged for token in tokens])


def flips(found, replies):
    """Whether each token would have been another, given those before it."""
    return np.concatenate(
        [
            (m.margin < 0) | ((m.margin == 0) & (m.rival < reply))
            for m, reply in zip(found, replies, strict=True)
        ]
    )


def test_the_bound_is_the_quantile_times_the_root_mean_square(monkeypatch, lm):
    moves = [0.1 * (-1) ** draw for draw in range(DRAWS)]
    plain = np.asarray([1.0, 0.3, 0.0])
    found = iter([plain, *[plain + move for move in moves]])
    rival = np.asarray([7, 8, 9])
    monkeypatch.setattr(fragility, "compute_margins", lambda *_: [Margins(next(found), rival)])
    (tokens,) = measure_fragility(lm.engine, [[5]], [[1, 2, 3]])
    np.testing.assert_allclose([t.bound for t in tokens], 0.1 * QUANTILE)
    assert [t.is_fragile for t in tokens] == [False, True, True]
    assert [t.rival for t in tokens] == [7, 8, 9]
    assert tokens[0].ratio == pytest.approx(10 / QUANTILE)


def test_the_quantile_is_students():
    """For 6 degrees of freedom P(T <= t) = 1/2 + x/2 (1 + c/2 + 3 c^2 / 8), x^2 = t^2 / (6 + t^2), c = 1 - x^2."""
    assert DRAWS == 6
    x = QUANTILE / np.sqrt(6 + QUANTILE**2)
    c = 1 - x**2
    assert 0.5 + x / 2 * (1 + c / 2 + 3 * c**2 / 8) == pytest.approx(0.99, abs=1e-5)


def test_margins_are_those_of_the_logits(lm, replies):
    for prompt, reply, found in zip(
        PROMPTS, replies, compute_margins(lm.engine, PROMPTS, replies), strict=True
    ):
        logits = lm.logits([*prompt, *reply[:-1]])[len(prompt) - 1 :]
        rows = np.arange(len(reply))
        own = logits[rows, reply]
        logits[rows, reply] = -np.inf
        np.testing.assert_array_equal(found.rival, np.argmax(logits, axis=-1))
        np.testing.assert_allclose(found.margin, own - np.max(logits, axis=-1), atol=1e-4)
        assert (found.margin > -1e-4).all()


def test_replies_of_unequal_length_share_a_batch(lm, replies):
    short = [reply[: 5 * i + 1] for i, reply in enumerate(replies)]
    whole = compute_margins(lm.engine, PROMPTS, replies)
    for one, all_ in zip(compute_margins(lm.engine, PROMPTS, short), whole, strict=True):
        np.testing.assert_allclose(one.margin, all_.margin[: len(one.margin)], atol=1e-4)


def test_long_replies_are_read_in_chunks(lm, replies):
    chunked = replace(lm.engine, chunk_tokens=12)
    expected = compute_margins(lm.engine, PROMPTS, replies)
    for one, other in zip(compute_margins(chunked, PROMPTS, replies), expected, strict=True):
        np.testing.assert_allclose(one.margin, other.margin, atol=1e-4)


def test_each_weight_has_its_rounding_error_or_minus_it(lm):
    noisy = noisy_engine(lm.engine, Policy.parse("bf16"), np.random.default_rng(0))
    name = "model.layers.0.mlp.up_proj.weight"
    plain = lm.params[name].astype(np.float64)
    error = lm.params[name].astype(ml_dtypes.bfloat16) - plain
    moved = noisy.params[name].data - plain
    np.testing.assert_allclose(np.abs(moved), np.abs(error), rtol=0, atol=1e-7)
    share = np.mean(moved * error > 0)
    assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(min(plain.shape))  # rows, or columns, share signs


def test_a_copy_of_the_weights_is_refused_before_it_is_made():
    n_bytes = sum(array.nbytes for array in tiny_model().params.values())
    free = DeviceMemory(0, 0, 1 << 40, free=n_bytes - 1)
    lm = tiny_model(backend=replace(load_backend("numpy"), memory=lambda: free))
    with pytest.raises(OutOfMemoryError, match="the weights with the errors of a draw"):
        measure_fragility(lm.engine, [[5]], [[1, 2, 3]])


def test_weights_that_the_format_holds_do_not_move():
    lm = tiny_model(policy="bf16")
    noisy = noisy_engine(lm.engine, Policy.parse("bf16"), np.random.default_rng(0))
    for name, array in lm.params.items():
        np.testing.assert_array_equal(noisy.params[name].data, array.astype(np.float32))


def test_noise_is_as_large_as_what_it_stands_for(lm, replies):
    judged = measure_fragility(lm.engine, PROMPTS, replies)
    noise = joined(judged, "bound") / QUANTILE
    there = compute_margins(tiny_model(3, policy="bf16").engine, PROMPTS, replies)
    moved = np.concatenate([m.margin for m in there]) - joined(judged, "margin")
    ratio = np.sqrt(np.mean(moved**2) / np.mean(noise**2))
    assert 0.7 < ratio < 1.4, ratio  # 240 tokens of four sequences, which share most roundings


def test_bounds_grow_with_the_unit_roundoff(lm, replies):
    size = {}
    for policy in ("fp32", "fp16", "tf32", "bf16", "fp8"):
        judged = measure_fragility(lm.engine, PROMPTS, replies, policy)
        size[policy] = np.sqrt(np.mean(joined(judged, "bound") ** 2))
    assert size["fp32"] == pytest.approx(size["bf16"] * 2.0**-16)
    assert size["fp16"] == pytest.approx(
        size["tf32"], rel=0.02
    )  # of as many bits, with other subnormals
    assert 4 < size["bf16"] / size["fp16"] < 16  # 2^3 times the roundoff
    assert 4 < size["fp8"] / size["bf16"] < 64  # 2^4 times


@pytest.mark.parametrize(
    "policy", ["fp32,matmul=tf32", "bf16,accumulate=bf16", "fp32,softmax=bf16"]
)
def test_each_part_of_a_policy_has_its_noise(lm, replies, policy):
    base = policy.partition(",")[0]
    bound = joined(measure_fragility(lm.engine, PROMPTS, replies, policy), "bound")
    without = joined(measure_fragility(lm.engine, PROMPTS, replies, base), "bound")
    assert np.isfinite(bound).all()
    assert np.sqrt(np.mean(bound**2)) > 1.1 * np.sqrt(np.mean(without**2))


def test_a_tie_is_always_fragile(lm):
    twins = dict(lm.params)
    head = next(name for name in (LM_HEAD, EMBEDDING) if name in twins)
    table = twins[head].copy()
    (chosen,) = lm.generate([PROMPTS[0]], max_new_tokens=1)[0].token_ids
    table[chosen - 1] = table[chosen]
    engine = replace(lm.engine, params=twins | {head: table})
    for policy in ("fp64", "fp32", "bf16"):
        ((token,),) = measure_fragility(engine, PROMPTS[:1], [[chosen]], policy)
        assert token.rival == chosen - 1
        assert token.is_fragile
    assert TokenFragility(0.0, 0.0, 1).is_fragile
    assert TokenFragility(0.0, 0.0, 1).ratio == 0.0
    assert not TokenFragility(1e-9, 0.0, 1).is_fragile


def test_noise_that_is_not_finite_leaves_no_token_firm():
    assert TokenFragility(5.0, float("nan"), 1).is_fragile
    assert TokenFragility(5.0, float("inf"), 1).is_fragile


def perturbed(size, seed):
    """NumPy with products that are off by a share of that size, each number its own way."""
    rng = np.random.default_rng(seed)

    def linear(x, weight, bias=None):
        y, saved = linear_fwd(x, weight, bias)
        return (y * (1.0 + size * rng.uniform(-1.0, 1.0, y.shape))).astype(y.dtype), saved

    return replace(load_backend("numpy"), kernels={"linear_fwd": linear})


def test_what_a_perturbed_backend_flips_was_marked(lm, replies):
    judged = measure_fragility(lm.engine, PROMPTS, replies)
    is_fragile = joined(judged, "is_fragile")
    assert is_fragile.mean() < 0.4

    n_flips = n_marked = 0
    for seed in range(8):
        other = tiny_model(3, backend=perturbed(2.0**-8, seed))
        is_flip = flips(compute_margins(other.engine, PROMPTS, replies), replies)
        n_flips += is_flip.sum()
        n_marked += (is_flip & is_fragile).sum()
    assert n_flips > 20
    assert n_marked >= 0.95 * n_flips

    broken = tiny_model(3, backend=perturbed(0.5, 0))  # far beyond any rounding
    is_flip = flips(compute_margins(broken.engine, PROMPTS, replies), replies)
    assert (is_flip & ~is_fragile).any()


def test_the_same_seed_gives_the_same_bounds_and_another_others(lm, replies):
    def bounds(seed):
        return joined(measure_fragility(lm.engine, PROMPTS, replies, seed=seed), "bound")

    np.testing.assert_array_equal(bounds(0), bounds(0))
    assert (bounds(0) != bounds(1)).any()


def test_other_libraries_and_emulated_policies_are_judged_too(lm, replies):
    expected = joined(measure_fragility(lm.engine, PROMPTS, replies), "bound")
    strict = tiny_model(3, backend=load_backend("strict", "cuda"))
    found = joined(measure_fragility(strict.engine, PROMPTS, replies), "bound")
    assert np.median(found / expected) == pytest.approx(1.0, abs=0.1)

    emulated = tiny_model(3, policy="fp8")
    ids = [r.token_ids for r in emulated.generate(PROMPTS, max_new_tokens=5, ignore_eos=True)]
    judged = measure_fragility(emulated.engine, PROMPTS, ids, "fp8")
    assert np.isfinite(joined(judged, "bound")).all()
    assert joined(judged, "bound").max() > expected.max()


def test_a_model_judges_its_own_replies(lm):
    out = lm.generate("Once", max_new_tokens=6, ignore_eos=True)
    tokens = lm.fragility("Once", out.token_ids)
    assert len(tokens) == 6
    ((first, *_),) = measure_fragility(
        lm.engine, [lm.tokenizer.encode("Once")], [out.token_ids], "bf16"
    )
    assert tokens[0] == first


@pytest.mark.parametrize(
    ("prompt", "reply", "against", "message"),
    [
        ([], [1], "bf16", "at least one token"),
        ([5], [], "bf16", "at least one token to judge; got none"),
        ([5], [258], "bf16", "below 258; got 258"),
        ([5] * 200, [6] * 57, "bf16", "context of 256 tokens; got 257"),
        ([5], [6], "bf17", 'got "bf17"'),
    ],
)
def test_what_cannot_be_judged_is_refused(lm, prompt, reply, against, message):
    with pytest.raises(RequestError, match=message):
        lm.fragility(prompt, reply, against)
