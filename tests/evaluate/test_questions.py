"""Texts become tokens to score by the conventions of lm-eval, and a task's arguments become options."""

import pytest

from xplm.errors import ContextError, RequestError
from xplm.evaluate.questions import Questions, read_arguments, windows
from xplm.evaluate.subject import Conversation, Likelihood, Scored, Tally, make_likelihood
from xplm.generate.options import SamplingOptions

PREFIX = 0
CHAT = Conversation((("user", "hi"),))


class Spelled:
    """A subject with a token for each character, but "ab" is one, and a likelihood that tells what was scored."""

    name, facts, context, prefix_id = "spelled", {}, 12, PREFIX

    def __init__(self):
        self.tally, self.asked, self.encoded = Tally(), [], []

    def encode(self, texts, *, add_special_tokens=True):
        self.encoded += texts
        return [self._encode(text, add_special_tokens) for text in texts]

    def _encode(self, text, add_special_tokens):
        if isinstance(text, Conversation):
            return [7, 8, 9]
        ids = [1 if c == "\n" else ord(c) for c in text.replace("ab", "\n")]
        return [5, *ids] if add_special_tokens else ids

    def score(self, asked):
        self.asked += asked
        return [Likelihood(float(-len(ids) + begin), True) for ids, begin in asked]

    def answer(self, asked):
        self.asked += asked
        return ["" for _ in asked]


def scored(*pairs):
    subject = Spelled()
    questions = Questions(subject)
    questions.likelihoods(pairs)
    return subject, questions


@pytest.mark.parametrize(
    ("context", "continuation", "ids", "begin"),
    [
        ("xy", "z", [5, 120, 121, 122], 3),
        (
            "xa",
            "bz",
            [5, 120, 97, 122],
            3,
        ),  # "ab" joins: what is longer than the context is the continuation
        ("xy ", "z", [5, 120, 121, 32, 122], 3),  # the space is the continuation's
        ("", "xy", [PREFIX, 120, 121], 1),
        ("  ", "x", [PREFIX, 32, 32, 120], 1),
        ("", "\0y", [PREFIX, 121], 1),  # it begins with the prefix itself
        (CHAT, "ab", [7, 8, 9, 1], 3),
        ("xa", "b", [5, 120, 97], 3),  # it has no token of its own
    ],
)
def test_a_continuation_follows_its_context(context, continuation, ids, begin):
    subject, questions = scored((context, continuation))
    assert subject.asked == [Scored(ids, begin)]
    assert questions.n_cut == 0


def test_what_does_not_fit_loses_its_beginning():
    subject, questions = scored(("abcdefghijk", "xy"), ("abcd", "x"))
    assert subject.asked[0] == Scored([ord(c) for c in "cdefghijkxy"], 9)
    assert questions.n_cut == 1
    with pytest.raises(ContextError, match="must fit the context of 12 tokens; got 12"):
        scored(("a", "b" + "x" * 12))


def test_each_text_is_tokenised_once():
    subject, _ = scored(("q", " one"), ("q", " two"), (CHAT, "x"), (CHAT, "y"), ("", "x"))
    assert sorted(map(str, subject.encoded)) == sorted(
        map(str, ["q one", "q two", "q", CHAT, "x", "y"])
    )


@pytest.mark.parametrize("length", [0, 1, 9, 10, 11, 20, 37])
def test_windows_score_each_token_once_with_all_the_context_there_is(length):
    ids = list(range(100, 100 + length))
    found = list(windows(ids, PREFIX, 10))
    assert [token for own, begin in found for token in own[begin:]] == ids
    whole = [PREFIX, *ids]
    for own, _ in found:
        assert len(own) == min(11, length + 1)
        assert any(whole[n : n + len(own)] == own for n in range(len(whole)))


def test_a_text_is_the_sum_of_its_windows():
    subject = Spelled()
    assert Questions(subject).rolling(["x" * 25, "", "xy"]) == [-25.0, 0.0, -2.0]
    assert [len(own) for own, _ in subject.asked] == [11, 11, 11, 3]


def test_prompts_leave_room_for_an_answer():
    subject = Spelled()
    questions = Questions(subject, seed=3)
    arguments = {"max_gen_toks": 4, "until": ["\n"], "do_sample": True}
    questions.answers([("x" * 20, arguments), (CHAT, arguments)])
    assert [question.prompt for question in subject.asked] == [[120] * 8, CHAT]
    assert [question.options.seed for question in subject.asked] == [3, 4]
    assert questions.n_cut == 1
    with pytest.raises(ContextError, match="set max_gen_toks"):
        questions.answers([("x", {})])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"max_new_tokens": 256}),
        ({"until": "\n", "max_gen_toks": 9}, {"max_new_tokens": 9, "stop": ("\n",)}),
        ({"until": ["a", ""], "max_tokens": 9}, {"max_new_tokens": 9, "stop": ("a",)}),
        ({"do_sample": False, "temperature": 0.7, "top_p": 0.9, "top_k": 5}, {}),
        ({"temperature": 0.0, "num_beams": 1}, {}),
        ({"temperature": 0.7, "top_p": 0.9}, {"temperature": 0.7, "top_p": 0.9}),
        ({"do_sample": True, "min_p": 0.1}, {"temperature": 1.0, "min_p": 0.1}),
        ({"repetition_penalty": 1.2}, {"repetition_penalty": 1.2}),
    ],
)
def test_arguments_of_tasks(given, expected):
    assert read_arguments(given, seed=2) == SamplingOptions(seed=2, **expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_beams": 4}, "got num_beams"),
        ({"temprature": 0.7}, "did you mean temperature"),
        ({"top_p": 3.0, "do_sample": True}, "top_p must be"),
    ],
)
def test_arguments_that_cannot_be_met_are_refused(given, message):
    with pytest.raises(RequestError, match=message):
        read_arguments(given, seed=0)


def test_a_likelihood_is_a_sum_and_greedy_where_nothing_is_likelier():
    assert make_likelihood([-1.0, -0.5], [-1.0, -0.5]) == (-1.5, True)
    assert make_likelihood([-1.0, -0.5], [-1.0, -0.25]) == (-1.5, False)
    assert make_likelihood([], []) == (0.0, True)
