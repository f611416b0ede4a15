"""The cost of a policy, and the search for the cheapest one, where the answers are known."""

import math

import pytest

from tests.generate.tiny import tiny_model
from xplm.errors import RequestError
from xplm.generate.engine import Engine
from xplm.models.decoder import param_specs
from xplm.numerics.policies.cost import PARTS, bits, count_numbers, part_bytes, total_bytes
from xplm.numerics.policies.reading import cut
from xplm.numerics.policies.search import make_evaluate, search
from xplm.params import count_params
from xplm.precision import Policy

NUMBERS = dict(zip(PARTS, (1000, 100, 90, 80, 70, 60, 50, 40), strict=True))
WIDE = "float32"


def kept(trials):
    return [str(trial.policy) for trial in trials if trial.is_kept]


def test_numbers_are_those_of_the_formulas():
    lm = tiny_model()  # L 2, C 32, F 48, H 4, K 2, D 8, V 258, not tied
    numbers = count_numbers(lm.config, 64)
    assert numbers == {
        "param": count_params(param_specs(lm.config)),
        "cache": 2 * 2 * 16 * 64,
        "compute": 2 * (2 * 32 + 2 * 16 + 6 * 32 + 4 * 48) + 2 * 32,
        "rope": 2 * 2 * (32 + 16) + 8,
        "norm": 2 * 32 * 5,
        "softmax": 2 * 2 * 4 * 64,
        "loss": 258,
        "accumulate": (2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 48) + 258 * 32) // 16,
    }
    tied = count_numbers(tiny_model(tie_word_embeddings=True).config, 64)
    assert tied["accumulate"] == numbers["accumulate"]  # the head is a product either way


@pytest.mark.parametrize(
    ("name", "n"), [("float32", 32), ("float8_e4m3fn", 8), ("tf32", 19), ("e5m7", 13)]
)
def test_a_number_has_the_bits_of_its_format(name, n):
    assert bits(name) == n


def test_bytes_follow_the_policy():
    policy = Policy.parse("bf16,norm=fp8")
    parts = part_bytes(policy, NUMBERS)
    assert (parts["param"], parts["cache"], parts["norm"], parts["softmax"]) == (2000, 200, 70, 240)
    assert total_bytes(policy, NUMBERS) == sum(parts.values())


def test_parts_are_taken_by_what_they_save_and_formats_from_the_narrowest():
    trials = list(search(lambda policy: 1.0, NUMBERS, budget=0.0, formats=("bf16", "fp8")))
    assert trials[0].policy == Policy()
    by_size = sorted(PARTS, key=lambda part: -NUMBERS[part])
    assert [trial.part for trial in trials[1:]] == by_size  # the first format is good each time
    assert set(str(trials[-1].policy).split(",")) >= {"fp8", "norm=fp8", "accumulate=fp8"}
    sizes = [trial.n_bytes for trial in trials]
    assert sizes == sorted(sizes, reverse=True)


def test_an_island_that_matters_stays_and_the_others_go():
    def evaluate(policy):
        return 2.0 + 0.5 * (policy.norm != WIDE) + 0.004 * (policy.cache == "float8_e4m3fn")

    trials = list(search(evaluate, NUMBERS, budget=0.01, formats=("fp8", "bf16")))
    result = Policy.parse(kept(trials)[-1])
    assert result == Policy.parse("fp8,rope=fp8,softmax=fp8,loss=fp8,accumulate=fp8")
    assert [t.excess for t in trials if t.part == "norm"] == [pytest.approx(0.504)] * 2


def test_the_budget_is_of_all_choices_together():
    def evaluate(policy):
        return 0.006 * sum(getattr(policy, part) != WIDE for part in ("param", "cache", "rope"))

    trials = list(search(evaluate, NUMBERS, budget=0.01, formats=("bf16",)))
    result = Policy.parse(kept(trials)[-1])
    assert (result.param, result.cache, result.rope) == ("bfloat16", WIDE, WIDE)
    assert trials[-1].excess <= 0.01


def test_a_loss_that_is_infinite_is_beyond_every_budget():
    def evaluate(policy):
        return math.inf if policy.param != WIDE else 1.0

    trials = list(search(evaluate, NUMBERS, budget=1e9, formats=("fp8",), parts=("param",)))
    assert kept(trials) == ["fp32"]


def test_on_a_model_the_norm_in_float16_is_what_is_not_given_up():
    lm = tiny_model()
    lm.params["model.embed_tokens.weight"] = lm.params["model.embed_tokens.weight"] * 300
    ids = [5, *lm.generate([5], max_new_tokens=63).token_ids]  # a text that the model is good at
    engine, n, seen = Engine(lm.rt, lm.config, lm.params, chunk_tokens=32), len(ids), []
    assert n > 32
    evaluate = make_evaluate(
        engine, cut(engine, ids, n), "fused", lambda policy, n_read: seen.append((policy, n_read))
    )
    trials = list(search(evaluate, count_numbers(lm.config, n), budget=0.05, formats=("fp16",)))
    result = Policy.parse(kept(trials)[-1])
    assert result.norm == WIDE
    assert (result.param, result.cache, result.softmax) == ("float16",) * 3
    assert trials[0].loss == pytest.approx(
        math.log(lm.perplexity(ids, window=n).perplexity), abs=1e-4
    )
    assert seen[:2] == [(Policy(), 1), (Policy(), 2)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": -0.1}, "at least 0 nats a token; got -0.1"),
        ({"budget": math.nan}, "got nan"),
        ({"parts": ("norm", "matmul")}, "param, cache, compute.*; got matmul"),
        ({"formats": ("bf17",)}, "bf17"),
    ],
)
def test_bad_input_is_refused(options, message):
    given = {"budget": 0.01, "formats": ("bf16",)} | options
    with pytest.raises(RequestError, match=message):
        list(search(lambda policy: 0.0, NUMBERS, **given))
