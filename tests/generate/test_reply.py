"""A reply's text: whole characters, cut at what stopped it."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.generate.tiny import tiny_tokenizer
from xplm.errors import RequestError
from xplm.generate.options import SamplingOptions
from xplm.generate.reply import WORTH_A_THREAD, Reply, advance


def make_reply(options=None, **changes):
    tokenizer = tiny_tokenizer()
    given = {"stop_ids": (1,), "max_tokens": 100, "continues_prompt": False} | changes
    return Reply(tokenizer, [5], options or SamplingOptions(), **given), tokenizer


def shown(reply, token, logprob=0.0):
    return "".join(part.text for part in reply.push(token, logprob))


def test_a_character_of_several_tokens_comes_out_whole():
    reply, tokenizer = make_reply()
    ids = tokenizer.encode("a🙂b")
    assert [shown(reply, token) for token in ids] == ["a", "", "", "", "🙂", "b"]


@pytest.mark.parametrize(
    ("ending", "reason"), [({}, "stop"), ({"max_tokens": 4, "stop_ids": ()}, "length")]
)
def test_held_text_comes_out_at_the_end(ending, reason):
    reply, tokenizer = make_reply(SamplingOptions(stop=("cde",)), **ending)
    pieces = [shown(reply, token, -1.0) for token in [*tokenizer.encode("abc"), 1]]
    assert pieces == ["a", "b", "", "c"]
    assert (reply.text, reply.finish_reason, reply.logprobs) == ("abc", reason, [-1.0] * 4)


def test_a_stop_text_completed_by_the_last_token_counts_as_stop():
    reply, tokenizer = make_reply(SamplingOptions(stop=("bc",)), max_tokens=3)
    assert [shown(reply, token) for token in tokenizer.encode("abc")] == ["a", "", ""]
    assert (reply.text, reply.finish_reason) == ("a", "stop")


def test_would_end_foresees_push():
    for ids, stop in (([7, 1], ()), ([7, 7, 7], ()), (tiny_tokenizer().encode("ab"), ("ab",))):
        reply, _ = make_reply(SamplingOptions(stop=stop), max_tokens=3)
        for n in range(1, len(ids) + 1):
            foreseen = reply.would_end(ids[:n])
            reply.push(ids[n - 1], 0.0)
            assert foreseen == (reply.finish_reason is not None) == (n == len(ids))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_refused_however_the_token_is_chosen(temperature, bad):
    reply, _ = make_reply(SamplingOptions(temperature=temperature, top_p=0.9))
    with pytest.raises(RequestError, match="logits must be finite"):
        reply.take(reply.choose(np.float32([0.0, bad, 1.0])))
    assert reply.ids == []


class Spells:
    """Allows one text, letter by letter."""

    def __init__(self, ids):
        self.ids = list(ids)

    @property
    def is_complete(self):
        return not self.ids

    def mask(self, logits):
        if self.ids[0] is None:
            raise RequestError("nothing may follow")
        masked = np.full_like(logits, -np.inf)
        masked[self.ids[0]] = logits[self.ids[0]]
        return masked

    def push(self, token):
        assert token == self.ids.pop(0)


def test_a_constraint_chooses_and_ends_a_reply():
    ids = tiny_tokenizer().encode("a🙂")
    reply, _ = make_reply(SamplingOptions(top_logprobs=2), constraint=Spells(ids))
    logits = np.zeros(258, np.float32)
    while reply.finish_reason is None:
        reply.take(reply.choose(logits))
    assert (reply.text, reply.ids, reply.finish_reason) == ("a🙂", ids, "stop")
    np.testing.assert_allclose(reply.logprobs, -np.log(258), rtol=1e-7)
    assert [[token for token, _ in top] for top in reply.top_logprobs] == [[0, 1]] * len(ids)


def test_a_constraint_that_cannot_be_met_leaves_the_reply_as_it_is():
    reply, _ = make_reply(constraint=Spells([7, None]))
    reply.take(reply.choose(np.zeros(258, np.float32)))
    with pytest.raises(RequestError, match="nothing may follow"):
        reply.take(reply.choose(np.zeros(258, np.float32)))
    assert (reply.ids, reply.finish_reason) == ([7], None)


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        ("<s>", "ab"),
        ("b<s>", "a"),
        ("<s>\nc", "ab"),
        ("<s>c", "ab\ncd"),
        ("s>", "ab\ncd"),
        (("x", "<s>"), "ab"),
    ],
)
def test_a_stop_text_may_hold_a_special_token(stop, text):
    reply, tokenizer = make_reply(SamplingOptions(stop=stop))
    for token in tokenizer.encode("ab<s>\ncd</s>"):
        if reply.finish_reason is None:
            reply.push(token, 0.0)
    assert (reply.text, reply.finish_reason) == (text, "stop")
    assert (reply.ids[-1] == 1) == (text == "ab\ncd")


def test_a_stop_text_that_is_a_special_token_may_be_spelled_out():
    reply, tokenizer = make_reply(SamplingOptions(stop="<s>"))
    for token in tokenizer.encode("ab<s>c", allow_special=False):
        reply.push(token, 0.0)
    assert (reply.text, reply.finish_reason) == ("ab", "stop")


def test_a_stop_text_that_is_no_unicode_is_refused():
    with pytest.raises(RequestError, match="lone surrogate"):
        make_reply(SamplingOptions(stop="\ud800"))


class OnThread:
    """Notes on which thread a mask was asked for; of the logits that `Refuses` marks none may follow."""

    is_complete = False

    def __init__(self):
        self.thread = ""

    def mask(self, logits):
        self.thread = threading.current_thread().name
        if np.isnan(logits[-1]):
            raise RequestError("nothing may follow")
        return logits

    def push(self, token):
        pass


@pytest.mark.parametrize("worth", [0, WORTH_A_THREAD])
def test_replies_get_their_own_tokens_whichever_thread_chooses(monkeypatch, worth):
    monkeypatch.setattr("xplm.generate.reply.WORTH_A_THREAD", worth)
    constraints = [OnThread() for _ in range(5)]
    replies = [make_reply(constraint=constraint)[0] for constraint in constraints]
    logits = np.eye(5, 258, k=65, dtype=np.float32)
    logits[1, -1] = np.nan
    with ThreadPoolExecutor(3, "chooser") as executor:
        outcomes = advance(replies, logits, executor)
    assert isinstance(outcomes[1], RequestError)
    assert [reply.ids for reply in replies] == [[65], [], [67], [68], [69]]
    assert all(c.thread.startswith("chooser") == (worth == 0) for c in constraints)
