"""Guesses of what was meant."""

import pytest

from xplm.errors import RequestError, did_you_mean, refuse_unknown_keywords

NAMES = ("rms_norm", "attention", "max_new_tokens", "smollm2-135m-instruct", "fp16", "bf16")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("rmsnorm", "rms_norm"),
        ("RMS_Norm", "rms_norm"),
        ("attn", "attention"),
        ("max_tokens", "max_new_tokens"),
        ("smollm2", "smollm2-135m-instruct"),
        ("FP16", "fp16"),
        ("bf61", "bf16"),
    ],
)
def test_a_near_name_is_guessed(word, meant):
    assert did_you_mean(word, NAMES) == f"; did you mean {meant}?"


@pytest.mark.parametrize("word", ["", "x", "zebra", "n" * 10_000])
def test_where_no_name_is_near_nothing_is_guessed(word):
    assert did_you_mean(word, NAMES) == ""


def test_each_of_several_words_is_guessed_once():
    guess = did_you_mean(["zebra", "rmsnorm", "rms-norm", "atention"], NAMES)
    assert guess == "; did you mean rms_norm and attention?"


def test_an_unknown_keyword_is_refused_with_what_was_meant():
    @refuse_unknown_keywords
    def load(path, policy="fp32"):
        """Load it."""
        return path, policy

    assert load("a", policy="bf16") == ("a", "bf16")
    assert (load.__name__, load.__doc__) == ("load", "Load it.")
    message = "load takes path, policy; got unknown polcy; did you mean policy?"
    with pytest.raises(RequestError) as caught:
        load("a", polcy="bf16")
    assert str(caught.value) == message
