"""Options are checked at the border, each with one line that says what is wrong."""

import pytest

from xplm.errors import RequestError
from xplm.generate.options import SamplingOptions, make_options


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"top_p": 7}, "top_p must be a number, above 0 and at most 1; got 7"),
        ({"top_p": 0.0}, "top_p must be a number, above 0 and at most 1; got 0.0"),
        ({"top_p": float("nan")}, "top_p must be a number, above 0 and at most 1; got nan"),
        ({"temperature": -1}, "temperature must be a number, at least 0; got -1"),
        ({"temperature": float("inf")}, "temperature must be a number, at least 0; got inf"),
        ({"temperature": "hot"}, "temperature must be a number, at least 0; got 'hot'"),
        ({"top_k": 1.5}, "top_k must be an integer, at least 0; got 1.5"),
        ({"top_k": True}, "top_k must be an integer, at least 0; got True"),
        ({"min_p": 1.01}, "min_p must be a number, at least 0 and at most 1; got 1.01"),
        ({"repetition_penalty": 0}, "repetition_penalty must be a number, above 0; got 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be an integer, at least 1; got 0"),
        ({"num_beams": 0}, "num_beams must be an integer, at least 1 and at most 1024; got 0"),
        (
            {"length_penalty": float("-inf")},
            "length_penalty must be a number, at least -10 and at most 10",
        ),
        ({"seed": -1}, "seed must be an integer, at least 0 and at most 18446744073709551615"),
        ({"stop": ("",)}, "every stop text must be a string, not empty; got ('',)"),
        ({"stop_token_ids": ("a",)}, "stop_token_ids must be integers; got ('a',)"),
        ({"stop": 3}, "stop must be a text or a list of texts; got 3"),
        ({"stop_token_ids": None}, "stop_token_ids must be an integer or a list of integers; got"),
        ({"num_beams": 2, "temperature": 1.0}, "num_beams=2 needs temperature 0"),
        ({"num_beams": 2, "top_logprobs": 1}, "num_beams=2 needs 0; got 1"),
        (
            {"presence_penalty": 2.5},
            "presence_penalty must be a number, at least -2 and at most 2; got 2.5",
        ),
        (
            {"frequency_penalty": float("nan")},
            "frequency_penalty must be a number, at least -2 and at most 2; got nan",
        ),
        (
            {"top_logprobs": 21},
            "top_logprobs must be an integer, at least 0 and at most 20; got 21",
        ),
        ({"logit_bias": {5: 101}}, "at least -100 and at most 100; got {5: 101}"),
        ({"logit_bias": {5: float("nan")}}, "logit_bias must map token ids to numbers"),
        ({"logit_bias": {"5": 1}}, "logit_bias must map token ids to numbers"),
        ({"logit_bias": {True: 1}}, "logit_bias must map token ids to numbers"),
        ({"logit_bias": {5: None}}, "logit_bias must map token ids to numbers"),
        ({"logit_bias": [(5, 1.0), (5, 2.0)]}, "logit_bias must map token ids to numbers"),
        ({"logit_bias": [5]}, "logit_bias must map token ids to numbers"),
        ({"logit_bias": 5}, "logit_bias must map token ids to numbers"),
        ({"topp": 0.5}, "got unknown topp"),
    ],
)
def test_a_bad_option_gets_one_clear_line(option, message):
    with pytest.raises(RequestError) as caught:
        make_options(option)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_stop_stands_for_a_tuple_of_one():
    options = make_options({"stop": "END", "stop_token_ids": 5})
    assert (options.stop, options.stop_token_ids) == (("END",), (5,))
    assert make_options({"stop": ["a", "b"]}).stop == ("a", "b")


def test_a_bias_is_a_mapping_or_its_pairs():
    pairs = ((5, 1.0), (7, -100.0))
    assert make_options({"logit_bias": {5: 1, 7: -100}}).logit_bias == pairs
    assert make_options({"logit_bias": [[5, 1], (7, -100.0)]}).logit_bias == pairs
    assert make_options({"logit_bias": pairs}).logit_bias == pairs


def test_defaults_are_greedy_without_filters():
    options = SamplingOptions()
    assert (options.temperature, options.top_k, options.top_p, options.min_p) == (0.0, 0, 1.0, 0.0)
    assert (options.repetition_penalty, options.num_beams) == (1.0, 1)
    assert (options.presence_penalty, options.frequency_penalty) == (0.0, 0.0)
    assert (options.logit_bias, options.top_logprobs) == ((), 0)
