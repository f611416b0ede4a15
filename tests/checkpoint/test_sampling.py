"""The sampling values that a model's files hold."""

import json

import pytest

from tests.checkpoint.tiny import hf_config, random_tensors, write_directory, write_gguf
from xplm.checkpoint.opening import open_checkpoint
from xplm.checkpoint.sampling import (
    add_sampling,
    read_sampling,
    sampling_from_config,
    sampling_from_gguf,
)
from xplm.errors import CheckpointError


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ({}, {}),
        ({"do_sample": True}, {"temperature": 1.0, "top_k": 50}),
        (
            {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.1},
            {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.1},
        ),
        ({"do_sample": False, "repetition_penalty": 1.1}, {"repetition_penalty": 1.1}),
        ({"do_sample": True, "top_k": None, "temperature": 0.6}, {"temperature": 0.6, "top_k": 50}),
        ({"stop_strings": ["###"]}, {"stop": ["###"]}),
    ],
)  # fmt: skip
def test_generation_config_is_read_as_transformers_reads_it(config, options):
    sampling = sampling_from_config(config)
    assert (sampling.options, sampling.ignored) == (options, {})


@pytest.mark.parametrize(
    ("config", "ignored"),
    [
        ({"no_repeat_ngram_size": 3}, {"no_repeat_ngram_size": 3}),
        ({"suppress_tokens": [1, 2]}, {"suppress_tokens": [1, 2]}),
        ({"num_beams": 4, "early_stopping": True}, {"num_beams": 4, "early_stopping": True}),
        ({"chat_format": "chatml"}, {"chat_format": "chatml"}),
        ({"max_new_tokens": 2048}, {"max_new_tokens": 2048}),
        ({"temperature": 0.6}, {"temperature": 0.6}),
        ({"do_sample": "yes"}, {"do_sample": "yes"}),
        ({"no_repeat_ngram_size": 0, "bad_words_ids": None, "typical_p": 1.0, "num_beams": 1}, {}),
        ({"eos_token_id": [1, 2], "transformers_version": "5.0", "max_length": 4096}, {}),
    ],
)
def test_what_could_change_a_reply_and_is_not_honoured_is_reported(config, ignored):
    assert sampling_from_config(config).ignored == ignored


@pytest.mark.parametrize(
    ("keys", "options", "ignored"),
    [
        ({}, {}, []),
        ({"temp": 0.75, "top_k": 40, "top_p": 0.5}, {"temperature": 0.75, "top_k": 40, "top_p": 0.5}, []),
        ({"top_k": 20}, {"temperature": 1.0, "top_k": 20}, []),
        ({"temp": -1.0, "top_k": -1}, {"temperature": 0, "top_k": 0}, []),
        ({"penalty_repeat": 1.5, "penalty_last_n": -1}, {"repetition_penalty": 1.5}, []),
        ({"penalty_repeat": 1.5, "penalty_last_n": 64}, {"repetition_penalty": 1.5}, ["penalty_last_n"]),
        ({"penalty_repeat": 1.5, "penalty_last_n": 0}, {}, []),
        ({"mirostat": 0, "mirostat_tau": 5.0, "xtc_probability": 0.0, "xtc_threshold": 0.1}, {}, []),
        ({"mirostat": 2, "sequence": "kpt"}, {}, ["mirostat", "sequence"]),
        ({"xtc_probability": 0.5, "unheard_of": 1}, {}, ["xtc_probability", "unheard_of"]),
    ],
)  # fmt: skip
def test_gguf_keys_are_read_as_llama_cpp_names_them(keys, options, ignored):
    sampling = sampling_from_gguf({f"general.sampling.{key}": value for key, value in keys.items()})
    assert sampling.options == options
    assert sampling.ignored.keys() == {f"general.sampling.{key}" for key in ignored}


def test_a_checkpoint_of_either_kind_is_read(tmp_path):
    config = hf_config()
    directory = write_directory(tmp_path / "model", config, [random_tensors(config)])
    assert read_sampling(open_checkpoint(directory)).options == {}
    (directory / "generation_config.json").write_text('{"do_sample": true, "top_k": 7}')
    sampling = read_sampling(open_checkpoint(directory))
    assert sampling.options == {"temperature": 1.0, "top_k": 7}

    path = write_gguf(tmp_path / "m.gguf", config, random_tensors(config))
    checkpoint = open_checkpoint(path)
    metadata = {**checkpoint.gguf_metadata, "general.sampling.temp": 0.699999988079071}
    assert sampling_from_gguf(metadata).options == {"temperature": 0.7}


def test_values_added_to_a_directory_are_read_again(tmp_path):
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [1]}')
    sampling = sampling_from_gguf({"general.sampling.temp": 0.5, "general.sampling.top_k": 0})
    add_sampling(tmp_path, sampling)
    config = json.loads((tmp_path / "generation_config.json").read_text())
    assert config["eos_token_id"] == [1]
    assert sampling_from_config(config).options == {"temperature": 0.5, "top_k": 0}


def test_a_generation_config_that_is_no_object_is_refused(tmp_path):
    config = hf_config()
    directory = write_directory(tmp_path / "model", config, [random_tensors(config)])
    (directory / "generation_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        read_sampling(open_checkpoint(directory))
