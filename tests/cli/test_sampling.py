"""Sampling values: those of flags, and those of the model."""

import json
import re

import pytest

from tests.cli.conftest import SEED
from tests.generate.tiny import tiny_model
from xplm.checkpoint.sampling import ModelSampling
from xplm.cli.sampling import describe_sampling, merge_options, unused_flags
from xplm.errors import RequestError

OWN = ModelSampling({"temperature": 0.6, "top_k": 50, "top_p": 0.9, "stop": ["#"]})
SAMPLED = {"do_sample": True, "temperature": 0.9, "top_p": 0.8}


@pytest.fixture
def with_config(spoilt):
    """The tiny model with a generation_config.json."""

    def write(**config):
        path = spoilt / "generation_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
        return spoilt

    return write


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"temperature": 0.6, "top_k": 50, "top_p": 0.9, "stop": ("#",)}),
        ({"temperature": 0.0, "top_p": 0.5}, {"temperature": 0.0, "top_k": 50, "top_p": 0.5}),
        ({"num_beams": 2}, {"temperature": 0.0, "num_beams": 2}),
        ({"stop": ("!",)}, {"stop": ("#", "!")}),
        ({"max_new_tokens": 3}, {"max_new_tokens": 3, "repetition_penalty": 1.0}),
    ],
)
def test_flags_win_over_the_models_own_values(given, expected):
    options = merge_options(given, OWN)
    assert expected.items() <= options.items()


def test_a_bad_value_of_the_model_is_refused_unless_a_flag_replaces_it():
    model = ModelSampling({"top_p": 7, "temperature": 1.0})
    with pytest.raises(
        RequestError, match=r"top_p must be .*; correct generation_config.json, or give --top-p"
    ):
        merge_options({}, model)
    assert merge_options({"top_p": 0.5}, model)["top_p"] == 0.5


@pytest.mark.parametrize(
    ("given", "model", "line"),
    [
        ({}, ModelSampling(), "greedy"),
        ({"num_beams": 3}, ModelSampling(), "beam search with 3 beams"),
        ({}, OWN, "temperature 0.6, top_k 50, top_p 0.9, stop '#' (the model's own); seed 0"),
        ({"temperature": 0.0}, OWN, "greedy; stop '#' (the model's own)"),
        (
            {"top_k": 0, "temperature": 0.2},
            OWN,
            "top_p 0.9, stop '#' (the model's own); temperature 0.2; seed 0",
        ),
        (
            {},
            ModelSampling({}, {"temperature": 0.6}),
            "greedy; generation_config.json has temperature 0.6 without do_sample",
        ),
    ],
)
def test_how_tokens_are_chosen_is_one_line(given, model, line):
    assert describe_sampling(merge_options(given, model), given, model) == line


def test_filters_without_sampling_are_of_no_effect():
    given = {"top_k": 5, "min_p": 0.1, "top_p": 1.0}
    assert unused_flags(merge_options(given), given) == ["--top-k", "--min-p"]
    sampled = given | {"temperature": 0.5}
    assert unused_flags(merge_options(sampled), sampled) == []


def test_a_chat_takes_the_models_values_and_says_so(xplm, with_config):
    path = with_config(**SAMPLED, no_repeat_ngram_size=3)
    flags = ("--model", path, "--max-new-tokens", 8, "--json")
    out = xplm("chat", *flags, stdin="One\n")
    expected = tiny_model(SEED).chat().send(
        "One", max_new_tokens=8, temperature=0.9, top_k=50, top_p=0.8
    )  # fmt: skip
    assert out.json["messages"][1]["content"] == expected.text
    assert out.json["sampling"]["top_p"] == 0.8
    assert "sampling: temperature 0.9, top_k 50, top_p 0.8 (the model's own); seed 0" in out.stderr
    assert "not honoured of generation_config.json: no_repeat_ngram_size 3" in out.stderr

    greedy = xplm("chat", *flags, "--temperature", 0, stdin="One\n")
    assert greedy.json["messages"][1]["content"] == (
        tiny_model(SEED).chat().send("One", max_new_tokens=8).text
    )


def test_generate_stays_greedy(xplm, with_config):
    flags = ("--max-new-tokens", 8, "--json", "--chat", "One")
    out = xplm("generate", "--model", with_config(**SAMPLED, suppress_tokens=[5]), *flags)
    assert out.json["token_ids"] == tiny_model(SEED).chat().send("One", max_new_tokens=8).token_ids
    assert "not honoured of generation_config.json: suppress_tokens [5]" in out.stderr
    assert "temperature" not in out.stderr


@pytest.mark.parametrize("command", ["generate", "chat"])
def test_a_drawn_seed_is_shown_and_repeats_the_run(xplm, tiny_directory, command):
    flags = ("--model", tiny_directory, "--temperature", 2, "--max-new-tokens", 12, "--json")
    prompt = ("One",) if command == "generate" else ()

    def run(seed):
        return xplm(command, *flags, "--seed", seed, *prompt, stdin="One\n")

    drawn, again = run("random"), run("random")
    (seed,) = re.findall(r"--seed (\d+) repeats the run", drawn.stderr)
    values = drawn.json if command == "generate" else drawn.json["sampling"]
    assert values["seed"] == int(seed)

    def replies(out):
        return out.json["text"] if command == "generate" else out.json["messages"]

    assert replies(run(seed)) == replies(drawn) != replies(again)


def test_a_seed_that_is_no_number_is_refused(xplm):
    assert (
        '--seed must be an integer or "random"; got "x"'
        in xplm("generate", "Hi", "--seed", "x").error
    )
