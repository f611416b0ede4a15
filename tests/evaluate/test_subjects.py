"""A model of this process and the same one behind a server give the same numbers, bit for bit."""

import signal
import socket
from dataclasses import replace

import httpx
import numpy as np
import pytest

from tests.generate.tiny import tiny_model
from tests.serve.client import NAME, is_at_rest, live, wait_until
from xplm.errors import ContextError, RequestError, TemplateError
from xplm.evaluate.local import LocalModel
from xplm.evaluate.questions import Questions
from xplm.evaluate.served import ServedModel
from xplm.evaluate.subject import Conversation, Question, Scored
from xplm.generate.options import SamplingOptions
from xplm.serve.guard import key_digest

RNG = np.random.default_rng(5)
TEXTS = ["".join(map(chr, RNG.integers(97, 123, n))) for n in (3, 40, 70, 150, 200, 300, 900)]
PAIRS = [(context, tail) for context in ["", "x", *TEXTS[:5]] for tail in (" yes", " no", "\nx")]
PAIRS += [(Conversation((("system", "Be brief."), ("user", text))), "ok") for text in TEXTS[:3]]
PROMPTS = [*TEXTS[:4], *(Conversation((("user", text),)) for text in TEXTS[:3])]
SAMPLED = {"do_sample": True, "temperature": 0.9, "top_p": 0.95, "until": ["zz", "q"]}
ASKED = [
    (prompt, {"max_gen_toks": 20, **more}) for more in ({}, SAMPLED, SAMPLED) for prompt in PROMPTS
]


@pytest.fixture(scope="module")
def lm():
    return tiny_model(kernels="invariant")


@pytest.fixture(scope="module")
def local(lm):
    return LocalModel(lm, NAME)


@pytest.fixture(scope="module")
def server(lm):
    keys = frozenset({key_digest("secret")})
    settings = {"key_digests": keys, "most_rows": 4, "most_waiting": 20}
    with pytest.MonkeyPatch.context() as patch, live(lm, **settings) as (address, app):
        patch.setattr("xplm.evaluate.served.BUSY_SECONDS", 0.02)
        yield address
        wait_until(lambda: is_at_rest(app))


@pytest.fixture(scope="module")
def served(server):
    return ServedModel(f"{server}/v1/", "secret")


def test_both_say_what_they_are(local, served):
    assert (served.name, served.context, served.prefix_id) == (NAME, local.context, local.prefix_id)
    assert served.facts == local.facts
    assert local.facts["is_invariant"] is True


def test_texts_and_conversations_have_the_same_tokens(local, served):
    texts = [*TEXTS, "", "<s>é</s>", Conversation((("user", "<s>hi"),))]
    for add_special_tokens in (True, False):
        found = local.encode(texts, add_special_tokens=add_special_tokens)
        assert served.encode(texts, add_special_tokens=add_special_tokens) == found


def test_likelihoods_are_the_same_bits(local, served):
    """The server refuses some at first, for 24 are as many as it takes at a time."""
    found = Questions(local).likelihoods(PAIRS)
    assert Questions(served).likelihoods(PAIRS) == found
    assert len({logprob for logprob, _ in found}) > 10


def test_likelihoods_of_texts_are_the_same_bits(local, served):
    found = Questions(local).rolling(TEXTS)
    assert Questions(served).rolling(TEXTS) == found
    assert all(logprob < 0 for logprob in found)


def test_answers_are_the_same(local, served):
    found = Questions(local, seed=9).answers(ASKED)
    assert Questions(served, seed=9).answers(ASKED) == found
    n = len(PROMPTS)
    assert found[n : 2 * n] != found[2 * n :]  # each has a seed of its own


def test_likelihoods_are_those_of_the_models_logits(lm, local):
    """And beginnings that are alike are computed once."""
    before = local.tally.reused_tokens
    ids = RNG.integers(2, 258, 200).tolist()
    asked = [Scored([*ids, n, n + 1], 200) for n in (5, 50)] + [Scored(ids, 1)]
    found = local.score(asked)
    for (own, begin), (logprob, is_greedy) in zip(asked, found, strict=True):
        table = lm.logits(own).astype(np.float64)
        scores = table - np.log(np.sum(np.exp(table), -1, keepdims=True))
        rows = np.arange(begin - 1, len(own) - 1)
        expected = scores[rows, own[begin:]]
        # float32 logits of up to about 30, whose products are summed in another order.
        assert logprob == pytest.approx(expected.sum(), abs=1e-4 * len(rows))
        assert is_greedy == (np.argmax(scores[rows], -1) == own[begin:]).all()
    assert local.tally.reused_tokens - before == 199


def test_a_greedy_answer_is_greedy(lm, local):
    ids = lm.tokenizer.encode("hello")
    reply = lm.generate(ids, max_new_tokens=8, ignore_eos=False)
    (scored,) = local.score([Scored([*ids, *reply.token_ids], len(ids))])
    assert scored.is_greedy
    assert scored.logprob == pytest.approx(sum(reply.logprobs), abs=1e-4)
    (text,) = local.answer([Question(ids, SamplingOptions(max_new_tokens=8))])
    assert text == reply.text


def test_progress_and_counts(lm):
    seen = []
    local = LocalModel(lm, NAME, progress=lambda *told: seen.append(told))
    local.score([Scored([3, 4, 5], 1)] * 3)
    local.answer([Question([3, 4], SamplingOptions(max_new_tokens=2, ignore_eos=True))])
    assert (seen[0], seen[-1]) == (("scoring", 0, 3), ("answering", 1, 1))
    assert ("scoring", 3, 3) in seen
    tally = local.tally
    assert (tally.prompt_tokens, tally.reused_tokens, tally.new_tokens) == (11, 0, 2)
    assert tally.tokens_per_s == pytest.approx(13 / tally.seconds)


def test_nothing_stays_held_when_an_answer_fails(lm):
    local = LocalModel(lm, NAME)
    with pytest.raises(ContextError, match="context of 256"):
        local.answer([Question([3], SamplingOptions()), Question([3] * 256, SamplingOptions())])
    assert local._scheduler.is_idle
    assert local._pool.held_bytes == 0


@pytest.fixture
def hears_interrupts():
    """A process that was started in the background ignores them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("hears_interrupts")
def test_an_interrupt_leaves_nothing_behind(lm, server):
    def interrupt(what, done, total):
        if done == 1:
            signal.raise_signal(signal.SIGINT)

    asked = [Question([3, n], SamplingOptions(max_new_tokens=30)) for n in range(2, 40)]
    local = LocalModel(lm, NAME, progress=interrupt)
    for subject in (local, ServedModel(server, "secret", progress=interrupt)):
        with pytest.raises(KeyboardInterrupt):
            subject.answer(asked)
    assert local._scheduler.is_idle
    assert local._pool.held_bytes == 0  # of the server, the fixture looks at the end


def test_refusals_of_the_server_are_errors(served, server):
    with pytest.raises(ContextError, match="context of 256"):
        served.answer([Question([3] * 256, SamplingOptions())])
    with pytest.raises(RequestError, match=r"refused \(401\).*API keys"):
        ServedModel(server, "wrong").encode(["x"])
    with pytest.raises(RequestError, match=r"refused \(400\).*integers"):
        served.score([Scored([1, 999], 1)])


def test_a_server_that_is_not_there_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(RequestError, match=r"must answer at .*start one with xplm serve"):
        ServedModel(f"http://127.0.0.1:{port}")
    with pytest.raises(RequestError, match="must answer at nonsense"):
        ServedModel("nonsense")


@pytest.mark.parametrize("body", [{}, {"data": []}, [1], "text"])
def test_a_server_of_another_kind_is_an_error(body, monkeypatch):
    answer = httpx.Response(200, json=body)
    monkeypatch.setattr(httpx.Client, "get", lambda self, url, **options: answer)
    with pytest.raises(RequestError, match="as xplm serve does"):
        ServedModel("http://127.0.0.1:1")


def test_a_model_without_a_template_cannot_chat(lm):
    bare = tiny_model(kernels="invariant")
    bare.tokenizer = replace(lm.tokenizer, parts=lm.tokenizer.parts._replace(chat_template=None))
    with pytest.raises(TemplateError):
        LocalModel(bare, NAME).encode([Conversation((("user", "hi"),))])
