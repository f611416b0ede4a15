"""Generating: one row or many, streamed or whole, give the same."""

from dataclasses import replace
from itertools import count

import numpy as np
import pytest

from tests.generate.tiny import tiny_model
from xplm.compiler import Compiler
from xplm.errors import RequestError
from xplm.generate.sampling import log_normaliser
from xplm.language_model import LanguageModel

PROMPTS = ["Hello", "a", "A much longer prompt than the others.", "12"]


@pytest.fixture(scope="module")
def lm():
    return tiny_model()


def test_greedy_is_the_argmax_of_the_whole_sequence_every_time(lm):
    ids = lm.tokenizer.encode("Hello")
    out = lm.generate(ids, max_new_tokens=20)
    for token, logprob in zip(out.token_ids, out.logprobs, strict=True):
        logits = lm.logits(ids)[-1]
        assert token == np.argmax(logits)
        # Rounding of a float32 forward pass, as in test_engine.
        np.testing.assert_allclose(logprob, logits[token] - log_normaliser(logits)[0], atol=1e-4)
        ids.append(token)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 1.0},
        {"temperature": 0.8, "top_k": 30, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.3},
        {"num_beams": 3},
    ],
)
def test_a_batch_of_unequal_prompts_equals_each_alone(lm, options):
    options |= {"max_new_tokens": 25, "stop_token_ids": range(2, 20)}
    seeds = [11, 5, 2**63, 0]
    batch = lm.generate(PROMPTS, seed=seeds, **options)
    assert len({len(out.token_ids) for out in batch}) > 1, "rows must end at different steps"
    for prompt, seed, row in zip(PROMPTS, seeds, batch, strict=True):
        alone = lm.generate(prompt, seed=seed, **options)
        assert (row.token_ids, row.text) == (alone.token_ids, alone.text)
        assert row.finish_reason == alone.finish_reason
        assert row.prompt_tokens == alone.prompt_tokens
        np.testing.assert_allclose(row.logprobs, alone.logprobs, atol=1e-4)


def test_one_seed_serves_every_prompt_of_a_batch(lm):
    batch = lm.generate(PROMPTS, temperature=1.0, seed=4, max_new_tokens=10)
    alone = [lm.generate(p, temperature=1.0, seed=4, max_new_tokens=10) for p in PROMPTS]
    assert [out.token_ids for out in batch] == [out.token_ids for out in alone]


def test_seeds_decide_and_nothing_else_does(lm):
    texts = [
        lm.generate("Hi", temperature=1.0, seed=seed, max_new_tokens=10).text for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_streamed_pieces_joined_are_the_text(lm):
    stream = lm.stream("Hello", max_new_tokens=30, temperature=1.0, seed=3)
    pieces = list(stream)
    assert all(pieces)
    assert stream.result is not None
    assert "".join(pieces) == stream.result.text
    assert (
        stream.result.token_ids
        == lm.generate("Hello", max_new_tokens=30, temperature=1.0, seed=3).token_ids
    )
    assert list(stream) == []
    assert stream.result.text == "".join(pieces)


def test_a_stop_text_ends_the_reply_and_is_not_shown(lm):
    free = lm.generate("Hello", max_new_tokens=30, temperature=1.0, seed=3)
    stop = free.text[5:7]
    out = lm.generate("Hello", max_new_tokens=30, temperature=1.0, seed=3, stop=["never", stop])
    assert out.finish_reason == "stop"
    assert out.text == free.text[: free.text.index(stop)]
    assert out.token_ids == free.token_ids[: len(out.token_ids)]


def test_a_stop_id_ends_the_reply_and_is_kept_among_the_ids(lm):
    free = lm.generate("Hello", max_new_tokens=10)
    stop = free.token_ids[4]
    n_tokens = free.token_ids.index(stop) + 1
    out = lm.generate("Hello", max_new_tokens=10, stop_token_ids=[stop])
    assert (out.finish_reason, out.token_ids) == ("stop", free.token_ids[:n_tokens])
    assert out.text == lm.tokenizer.decode(free.token_ids[: n_tokens - 1])


def test_the_models_own_end_can_be_ignored():
    out_id = tiny_model().generate("Hello", max_new_tokens=3).token_ids[1]
    lm = tiny_model(eos_token_id=out_id)
    assert lm.generate("Hello", max_new_tokens=3).finish_reason == "stop"
    assert len(lm.generate("Hello", max_new_tokens=3, ignore_eos=True).token_ids) == 3


def test_max_new_tokens_and_the_context_end_a_reply_by_length(lm):
    out = lm.generate("Hello", max_new_tokens=4)
    assert (out.finish_reason, len(out.token_ids), out.prompt_tokens) == ("length", 4, 5)
    out = lm.generate("x" * 250, max_new_tokens=100, ignore_eos=True)
    assert (out.finish_reason, len(out.token_ids)) == ("length", 6)


def test_timings_count_tokens_and_seconds(lm):
    timings = lm.generate("Hello", max_new_tokens=4).timings
    assert (timings.prefill_tokens, timings.decode_tokens) == (5, 3)
    assert min(timings.prefill_seconds, timings.decode_seconds) > 0.0
    assert timings.decode_tokens_per_s == 3 / timings.decode_seconds
    assert timings.as_dict()["prefill_tokens_per_s"] == timings.prefill_tokens_per_s

    batch = lm.generate(["Hello", "Hi"], max_new_tokens=4)
    assert batch[0].timings == batch[1].timings
    assert (batch[0].timings.prefill_tokens, batch[0].timings.decode_tokens) == (7, 6)


@pytest.mark.parametrize("prompts", ["Hello", ["Hello", "Hi"]], ids=["one", "a batch"])
def test_timings_count_what_was_compiled_meanwhile(lm, prompts):
    compiled = count(5)  # before the reply, and after
    counting = Compiler(compilations=lambda: next(compiled))
    backend = replace(lm.engine.rt.backend, compiler=counting)
    rt = replace(lm.engine.rt, backend=backend)
    told = LanguageModel(lm.config, lm.params, rt, lm.tokenizer)
    replies = told.generate(prompts, max_new_tokens=2)
    timings = (replies[0] if isinstance(replies, list) else replies).timings
    assert timings.compilations == timings.as_dict()["compilations"] == 1


def test_an_empty_list_of_prompts_gives_an_empty_list(lm):
    assert lm.generate([]) == []


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("", {}, "a prompt must hold at least one token; got none"),
        (["ok", ""], {}, "a prompt must hold at least one token; got none"),
        (
            "x" * 256,
            {},
            "must leave room for a token in the model's context of 256; got 256 tokens",
        ),
        ("x" * 300, {}, "must fit the model's context of 256 tokens; got 300 tokens"),
        ("ok", {"top_p": 7}, "top_p must be a number"),
        (
            "ok",
            {"stop_token_ids": [5, 10**9]},
            "stop_token_ids must be .* below 258; got 1000000000",
        ),
        ("ok", {"stop_token_ids": -1}, "stop_token_ids must be .* below 258; got -1"),
        ([1.7], {}, "token ids must be integers, .*; got 1.7"),
        ([[1], [2.5]], {}, "token ids must be integers, .*; got 2.5"),
        (["a", "b"], {"seed": [1]}, "one for each of 2 prompts; got 1"),
        (["a", "b"], {"seed": "x"}, "seed must be"),
    ],
)
def test_a_bad_request_is_refused_before_anything_runs(lm, prompt, options, message):
    with pytest.raises(RequestError, match=message) as caught:
        lm.generate(prompt, **options)
    assert "\n" not in str(caught.value)


def test_a_bad_stream_is_refused_at_the_call(lm):
    with pytest.raises(RequestError, match="top_p"):
        lm.stream("ok", top_p=7)


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "seed": 2}, {"num_beams": 3}])
def test_16_tokens_come_out_of_another_address_space_the_same(lm, device1, options):
    options |= {"max_new_tokens": 16, "ignore_eos": True}
    there = tiny_model(backend=device1)
    rows = zip(there.generate(PROMPTS, **options), lm.generate(PROMPTS, **options), strict=True)
    for row, expected in rows:
        assert len(row.token_ids) == 16
        assert row.token_ids == expected.token_ids


@pytest.mark.parametrize("policy", ["bf16", "fp16"])
def test_narrow_policies_generate_too(policy):
    out = tiny_model(policy=policy).generate(["Hello", "a"], max_new_tokens=5)
    assert [len(row.token_ids) for row in out] == [5, 5]
    assert np.isfinite(out[0].logprobs).all()
