"""Values that are not plain, weights that change while they are read, and names that no file can have."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoint.tiny import hf_config, random_tensors, write_directory, write_gguf
from xplm.checkpoint.opening import open_checkpoint
from xplm.checkpoint.untrusted import open_regular, parse_json, parse_toml, read_into
from xplm.errors import MAX_MESSAGE_CHARS, CheckpointError, XplmError

CONFIG = hf_config(num_hidden_layers=1)


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_json, "[" * 5000 + "]" * 5000, "nested"),
        (parse_json, "[" * 65 + "]" * 65, "nested"),
        (parse_json, "1" + "0" * 400, "float64"),
        (parse_json, "9" * 5000, "digits"),
        (parse_json, '{"a": "\\ud800"}', "lone surrogate"),
        (parse_json, "{", "Expecting"),
        (parse_toml, "a = " + "[" * 5000 + "]" * 5000, "nested"),
        (parse_toml, "a = " + "{a = " * 5000 + "1" + "}" * 5000, "nested"),
        (parse_toml, "a." * 30_000 + "a = 1", "parts"),
        (parse_toml, '"a" . ' * 10_000 + "a = 1", "parts"),
        (parse_toml, "[" + "a." * 30_000 + "a]", "parts"),
        (parse_toml, "a = 0x" + "f" * 5000, "float64"),
    ],
)
def test_values_that_are_not_plain_are_refused_at_once(parse, text, message):
    began = time.perf_counter()
    with pytest.raises(ValueError, match=message):
        parse(text)
    assert time.perf_counter() - began < 5.0


def test_values_that_models_have_are_taken():
    values = {
        "model_max_length": 10**30,
        "pair": "\U0001f600",
        "deep": json.loads("[" * 60 + "]" * 60),
    }
    assert parse_json(json.dumps(values)) == values
    assert parse_json(json.dumps(values, ensure_ascii=False)) == values
    assert parse_toml('a.b.c = "1.2.3.4 ..... a.b.c.d"') == {
        "a": {"b": {"c": "1.2.3.4 ..... a.b.c.d"}}
    }


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "half\ud800"])
def test_a_name_that_no_file_can_have_is_an_oserror(tmp_path, name):
    with pytest.raises(OSError, match=r"name|long"):
        open_regular(tmp_path / name)


def test_a_shard_name_of_300_characters_is_refused(tmp_path):
    write_directory(tmp_path, CONFIG, [random_tensors(CONFIG)])
    (tmp_path / "model.safetensors").unlink()
    index = {"weight_map": {"a": "x" * 300 + ".safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="missing"):
        open_checkpoint(tmp_path)


def test_an_index_beyond_16_mib_is_refused(tmp_path):
    write_directory(tmp_path, CONFIG, [random_tensors(CONFIG)])
    (tmp_path / "model.safetensors").unlink()
    with (tmp_path / "model.safetensors.index.json").open("wb") as index:
        index.truncate(2**24 + 1)
    with pytest.raises(CheckpointError, match=f"at most {2**24} bytes"):
        open_checkpoint(tmp_path)


@pytest.fixture(params=["safetensors", "gguf"])
def weights(request, tmp_path) -> tuple[Path, Path]:
    """A model, and the file that its weights are in."""
    tensors = random_tensors(CONFIG)
    if request.param == "gguf":
        path = write_gguf(tmp_path / "m.gguf", CONFIG, tensors)
        return path, path
    path = write_directory(tmp_path / "m", CONFIG, [tensors])
    return path, path / "model.safetensors"


def test_weights_shorter_than_their_header_says_are_refused(weights):
    model, file = weights
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(CheckpointError, match="whole"):
        open_checkpoint(model)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])  # read as stored, and by rows
def test_weights_that_are_shortened_while_in_use_are_an_error(weights, dtype):
    model, file = weights
    checkpoint = open_checkpoint(model)
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(CheckpointError, match="was changed after it was opened"):
        checkpoint.read("model.norm.weight", np.dtype(dtype))


def test_weights_that_are_replaced_while_in_use_are_an_error(weights, tmp_path):
    model, file = weights
    checkpoint = open_checkpoint(model)
    (tmp_path / "other").write_bytes(file.read_bytes())
    (tmp_path / "other").replace(file)
    with pytest.raises(CheckpointError, match="was changed after it was opened"):
        checkpoint.read("model.norm.weight", np.dtype(np.float32))


def test_a_file_that_ends_within_an_array_is_an_error(tmp_path):
    (tmp_path / "short").write_bytes(bytes(10))
    with open_regular(tmp_path / "short") as file, pytest.raises(OSError, match="last 6 bytes"):
        read_into(file, np.empty(4, np.float32))


def test_a_message_has_a_bounded_length_and_keeps_both_ends():
    message = str(XplmError("begin " + "x\u202e\x9b" * 100_000 + " end"))
    assert len(message) <= MAX_MESSAGE_CHARS
    assert message.startswith("begin x\\u202e\\x9b")
    assert message.endswith(" end")
