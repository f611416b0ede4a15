"""Tokens that the files beside tokenizer.json declare: special in one is special, and what cannot be true is refused.

That the others are those of transformers is in tests/reference/test_tokenizer_files.py.
"""

import pytest

from tests.text.directories import N_TOKENS, added, byte_level, write_tokenizer
from xplm.errors import TokenizerError
from xplm.text.tokenizer import Tokenizer

NEW = {str(N_TOKENS): added("<|eot|>", special=True)}


def read(path, **files):
    return Tokenizer.from_directory(write_tokenizer(path, byte_level(), **files))


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config_json": {"added_tokens_decoder": NEW}},
        {"tokenizer_config_json": {"extra_special_tokens": ["<|eot|>"]}},
        {"tokenizer_config_json": {"image_token": "<|eot|>"}},
        {"special_tokens_map_json": {"pad_token": "<|eot|>"}},
        {
            "tokenizer_config_json": {"added_tokens_decoder": {str(N_TOKENS): added("<|eot|>")}},
            "special_tokens_map_json": {"additional_special_tokens": ["<|eot|>"]},
        },
        {
            "tokenizer_config_json": {"additional_special_tokens": ["<|eot|>"]},
            "added_tokens_json": {"<|eot|>": N_TOKENS},
        },
    ],
)
def test_a_token_that_is_special_in_any_file_is_not_printed(tmp_path, files):
    tokenizer = read(tmp_path, **files)
    assert tokenizer.encode("a<|eot|>b")[1] == N_TOKENS
    assert tokenizer.decode(tokenizer.encode("a<|eot|>b")) == "ab"
    assert N_TOKENS not in tokenizer.encode("a<|eot|>b", allow_special=False)


def test_a_token_of_the_vocabulary_becomes_special_by_its_name(tmp_path):
    tokenizer = read(tmp_path, tokenizer_config_json={"eos_token": "<plain>"})
    assert tokenizer.eos_token_ids == (N_TOKENS - 1,)
    assert tokenizer.decode(tokenizer.encode("a<plain>b")) == "ab"


def test_an_id_that_the_pipeline_gives_otherwise_is_refused(tmp_path):
    config = {"added_tokens_decoder": {str(N_TOKENS + 5): added("<|eot|>")}}
    with pytest.raises(TokenizerError, match=rf"'<\|eot\|>' must have .*, {N_TOKENS + 5}; it has"):
        read(tmp_path, tokenizer_config_json=config)
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(TokenizerError, match=r"'<s>' must have .*, 7; it has 0"):
        read(tmp_path, added_tokens_json={"<s>": 7})


def test_tokens_beyond_the_model_are_left_out(tmp_path, caplog):
    config = {"pad_token": "[PAD]", "eos_token": "</s>"}
    tokenizer = read(tmp_path, tokenizer_config_json=config, config_json={"vocab_size": N_TOKENS})
    assert tokenizer.pad_token_id is None
    assert len(tokenizer.encode("[PAD]")) == 5
    assert f"'[PAD]' is left out: the model has {N_TOKENS} embeddings" in caplog.text

    config = {"eos_token": "<|eot|>"}
    with pytest.raises(TokenizerError, match=r"eos_token must be a token of tokenizer\.json or"):
        read(tmp_path, tokenizer_config_json=config, config_json={"vocab_size": N_TOKENS})
    room = {"vocab_size": N_TOKENS + 1}
    tokenizer = read(tmp_path, tokenizer_config_json=config, config_json=room)
    assert tokenizer.eos_token_ids == (N_TOKENS,)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer_config_json": {"added_tokens_decoder": []}}, "must map ids to objects"),
        ({"tokenizer_config_json": {"added_tokens_decoder": {"x": {}}}}, "must map ids"),
        ({"tokenizer_config_json": {"added_tokens_decoder": {"9": {}}}}, "a token must be a text"),
        ({"tokenizer_config_json": {"eos_token": 7}}, "a token must be a text"),
        ({"tokenizer_config_json": {"extra_special_tokens": "<x>"}}, "must be a list of tokens"),
        ({"tokenizer_config_json": {"extra_special_tokens": [7]}}, "a token must be a text"),
        (
            {
                "tokenizer_config_json": {"added_tokens_decoder": NEW},
                "special_tokens_map_json": {"additional_special_tokens": "<x>"},
            },
            "must be a list of tokens",
        ),
        ({"added_tokens_json": {"<x>": "1"}}, "must map texts to ids"),
        ({"tokenizer_config_json": {"split_special_tokens": True}}, "split_special_tokens"),
    ],
)
def test_malformed_declarations_are_refused(tmp_path, files, message):
    with pytest.raises(TokenizerError, match=message):
        read(tmp_path, **files)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"add_bos_token": True, "bos_token": "<s>"}, "add_bos_token is True"),
        ({"add_prefix_space": True}, "add_prefix_space is True"),
    ],
)
def test_settings_that_tokenizer_json_overrules_are_reported(tmp_path, caplog, config, said):
    read(tmp_path, tokenizer_config_json=config)
    assert f"{said} in tokenizer_config.json and False in tokenizer.json" in caplog.text
