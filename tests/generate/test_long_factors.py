"""Replies and chats that grow past the trained length of longrope: as if the long factors had been there at once."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from tests.generate.tiny import tiny_model
from xplm.backend import DeviceMemory
from xplm.generate.engine import Engine
from xplm.generate.memory import plan_generation
from xplm.generate.options import SamplingOptions
from xplm.generate.reply import start_reply
from xplm.generate.request import Request
from xplm.generate.sampling import log_normaliser
from xplm.generate.scheduler import generate_steps

TRAINED = 80
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.1, 1.3, 1.5],
    "long_factor": [1.5, 2.0, 4.0, 9.0],
    "original_max_position_embeddings": TRAINED,
}
PROMPTS = ["Hello", "Of these, this is the longest.", "a"]
ATOL = 1e-4  # rounding of a float32 forward pass in pieces of other lengths, as in test_engine


@pytest.fixture(scope="module")
def lm():
    return tiny_model(rope_scaling=LONGROPE, max_position_embeddings=512)


def assert_as_whole(lm, prompt_ids, out):
    """Each log-probability is that of one pass over all tokens before it, whose factors its length decides."""
    ids = [*prompt_ids, *out.token_ids]
    assert len(prompt_ids) <= TRAINED < len(ids) - 1
    logits = np.concatenate([lm.logits(ids[:TRAINED]), lm.logits(ids)[TRAINED:]])
    before = logits[len(prompt_ids) - 1 : -1].astype(np.float64)
    of_token = np.take_along_axis(before, np.asarray(out.token_ids)[:, None], axis=-1)
    expected = of_token - log_normaliser(before)
    np.testing.assert_allclose(out.logprobs, expected[:, 0], atol=ATOL)


def test_beams_cross_though_a_window_has_passed_the_beginning():
    lm = tiny_model(
        model_type="mistral", sliding_window=10, rope_scaling=LONGROPE, max_position_embeddings=512
    )
    prompt = lm.tokenizer.encode("Of these, this is the longest. " * 2)
    assert_as_whole(
        lm, prompt, lm.generate(prompt, max_new_tokens=30, ignore_eos=True, num_beams=3)
    )


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}])
def test_a_reply_is_that_of_the_whole_sequence(lm, options):
    prompt = lm.tokenizer.encode("Hello")
    assert_as_whole(lm, prompt, lm.generate(prompt, max_new_tokens=85, ignore_eos=True, **options))


@pytest.mark.parametrize(
    ("n_prompt", "n_steps"),
    [
        (TRAINED + 20, 4 + 9),
        (TRAINED - 5, 3 + 9 + 2),  # one of the 9 has 3 chunks read again before it
    ],
)
def test_a_text_of_several_chunks_is_read_by_long_factors_once(lm, n_prompt, n_steps):
    engine, ids = replace(lm.engine, chunk_tokens=32), list(range(2, 2 + n_prompt))
    options = SamplingOptions(max_new_tokens=10, ignore_eos=True)
    reply = start_reply(engine, lm.tokenizer, ids, options, continues_prompt=True)
    steps = list(islice(generate_steps(engine, [Request(reply)]), 2 * n_steps))
    assert len(steps) == n_steps
    assert reply.ids == lm.generate(ids, max_new_tokens=10, ignore_eos=True).token_ids


def test_rows_of_a_batch_cross_one_after_the_other(lm):
    outs = lm.generate(PROMPTS, max_new_tokens=90, ignore_eos=True)
    for prompt, out in zip(PROMPTS, outs, strict=True):
        assert_as_whole(lm, lm.tokenizer.encode(prompt), out)


def test_a_chat_says_what_the_rendered_conversation_does(lm):
    """Its second reply crosses the trained length; with that turn taken back the next is within it, the last beyond."""
    chat = lm.chat()
    lengths = []
    for text, n_tokens, turns_back in (("Hi", 6, 0), ("On", 40, 0), ("On", 6, 1), ("Ever", 6, 0)):
        chat.rollback(turns_back)
        ids = chat.prompt_ids(text)
        out = chat.send(text, max_new_tokens=n_tokens, ignore_eos=True)
        expected = lm.generate(ids, max_new_tokens=n_tokens, ignore_eos=True)
        assert out.token_ids == expected.token_ids
        np.testing.assert_allclose(out.logprobs, expected.logprobs, atol=ATOL)
        lengths.append((len(ids), len(ids) + n_tokens - 1))
    assert [(n > TRAINED, m > TRAINED) for n, m in lengths] == [
        (False, False),
        (False, True),
        (False, False),
        (True, True),
    ]


def test_a_reply_that_is_broken_off_while_it_is_computed_again_leaves_no_trace(monkeypatch):
    trained = 160
    rope = LONGROPE | {"original_max_position_embeddings": trained}
    lm = tiny_model(rope_scaling=rope, max_position_embeddings=512)
    lm.engine = replace(lm.engine, chunk_tokens=64)
    chat, never = lm.chat(), lm.chat()
    for each in (chat, never):
        each.send("Hi", max_new_tokens=30, ignore_eos=True)
    read = Engine.read

    def break_off(self, pool, rows, ids, ends, **options):
        if ends[0] > trained and rows[0].length > 0:
            raise KeyboardInterrupt  # one chunk has been read by the long factors
        return read(self, pool, rows, ids, ends, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "read", break_off)
        with pytest.raises(KeyboardInterrupt):
            chat.send("On", max_new_tokens=90, ignore_eos=True)
    found, expected = (each.send("", max_new_tokens=2, ignore_eos=True) for each in (chat, never))
    assert found.prompt_tokens < trained
    np.testing.assert_allclose(found.logprobs, expected.logprobs, atol=ATOL)


def test_memory_is_counted_for_what_is_computed_again(lm):
    def activations(prompt_tokens, new_tokens):
        sizes = {"prompt_tokens": prompt_tokens, "new_tokens": new_tokens}
        plan = plan_generation(lm.engine, DeviceMemory(0, 0, 0), **sizes)
        return plan.parts["activations"]

    assert activations(5, TRAINED - 5) < activations(5, TRAINED - 4)
    assert activations(5, 100) == activations(105, 0)
