"""Opening Hugging Face directories."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.checkpoint.tiny import hf_config, random_tensors, write_directory, write_gguf
from tests.paths import STORY, needs_story
from xplm.checkpoint.huggingface import open_directory
from xplm.checkpoint.opening import open_checkpoint
from xplm.errors import CheckpointError, ConfigError

FLOAT32 = np.dtype(np.float32)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@pytest.fixture
def tensors():
    return random_tensors(hf_config())


def split(tensors):
    names = list(tensors)
    return [
        {name: tensors[name] for name in names[start : start + 8]}
        for start in range(0, len(names), 8)
    ]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_every_stored_dtype_reads_back_exactly(tmp_path, tensors, dtype):
    stored = {name: array.astype(dtype) for name, array in tensors.items()}
    checkpoint = open_directory(write_directory(tmp_path / "m", hf_config(), [stored]))

    for name, array in stored.items():
        read = checkpoint.read(name, np.dtype(dtype))
        assert read.dtype == dtype
        np.testing.assert_array_equal(read, array)
        np.testing.assert_array_equal(checkpoint.read(name, FLOAT32), array.astype(np.float32))


def test_shards_are_one_checkpoint(tmp_path, tensors):
    shards = split(tensors)
    assert len(shards) > 2
    checkpoint = open_directory(write_directory(tmp_path / "m", hf_config(), shards))

    assert checkpoint.tensors.keys() == tensors.keys()
    for name, array in tensors.items():
        assert checkpoint.tensors[name].shape == array.shape
        np.testing.assert_array_equal(checkpoint.read(name, FLOAT32), array)


def test_what_is_read_belongs_to_the_caller(tmp_path, tensors):
    checkpoint = open_directory(write_directory(tmp_path / "m", hf_config(), [tensors]))
    first = checkpoint.read("model.norm.weight", FLOAT32)
    first[:] = 0.0
    np.testing.assert_array_equal(
        checkpoint.read("model.norm.weight", FLOAT32), tensors["model.norm.weight"]
    )


def test_a_weight_beyond_float16_is_refused_not_made_infinite(tmp_path, tensors):
    tensors["model.norm.weight"][3] = 1e5
    checkpoint = open_directory(write_directory(tmp_path / "m", hf_config(), [tensors]))
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight .* float16.*65504.*1e\+05"):
        checkpoint.read("model.norm.weight", np.dtype(np.float16))
    assert np.isfinite(checkpoint.read("model.norm.weight", BFLOAT16)).all()


@needs_story
def test_the_story_model_opens():
    checkpoint = open_checkpoint(STORY)
    assert checkpoint.config.vocab_size == 2048
    assert checkpoint.tensors["lm_head.weight"].shape == (2048, 128)
    assert checkpoint.gguf_metadata is None


def test_a_missing_shard_is_named(tmp_path, tensors):
    path = write_directory(tmp_path / "m", hf_config(), split(tensors))
    (path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"missing: model-00002-of-00003\.safetensors"):
        open_directory(path)


@pytest.mark.parametrize("kept", [0, 4, 100, 3000])
def test_a_truncated_shard_is_named(tmp_path, tensors, kept):
    path = write_directory(tmp_path / "m", hf_config(), [tensors])
    shard = path / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"model\.safetensors must be a whole"):
        open_directory(path)


def test_of_a_tensor_in_two_shards_the_last_is_used(tmp_path, tensors, caplog):
    shards = split(tensors)
    shards[2] |= {name: tensors[name] + 1 for name in list(tensors)[:2]}
    checkpoint = open_directory(write_directory(tmp_path / "m", hf_config(), shards))
    for name in list(tensors)[:2]:
        np.testing.assert_array_equal(checkpoint.read(name, FLOAT32), tensors[name] + 1)
    (line,) = caplog.messages
    assert "2 of the tensors are in several shards; the last is used" in line
    assert "model.embed_tokens.weight (model-00003-of-00003.safetensors)" in line


def test_one_file_comes_before_a_stale_index(tmp_path, tensors, caplog):
    path = write_directory(tmp_path / "m", hf_config(), split(tensors))
    write_directory(path, hf_config(), [{name: array + 1 for name, array in tensors.items()}])
    checkpoint = open_directory(path)
    for name, array in tensors.items():
        np.testing.assert_array_equal(checkpoint.read(name, FLOAT32), array + 1)
    (line,) = caplog.messages
    assert "model.safetensors is used" in line

    for shard in path.glob("model-*"):
        shard.unlink()
    index = {"weight_map": dict.fromkeys(tensors, "model.safetensors")}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    caplog.clear()
    open_directory(path)
    assert not caplog.messages


@pytest.mark.parametrize("text", ["{", "{}", '{"weight_map": {"a": "b.bin"}}'])
def test_a_damaged_index_beside_one_file_is_stale_too(tmp_path, tensors, text, caplog):
    path = write_directory(tmp_path / "m", hf_config(), [tensors])
    (path / "model.safetensors.index.json").write_text(text)
    assert open_directory(path).tensors.keys() == tensors.keys()
    (line,) = caplog.messages
    assert "model.safetensors is used" in line


def test_an_adapter_beside_whole_weights_is_named(tmp_path, tensors, caplog):
    path = write_directory(tmp_path / "m", hf_config(), [tensors])
    (path / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    open_checkpoint(path)
    (line,) = caplog.messages
    assert "adapter beside its weights; it is merged in only where it is given too" in line


def test_weights_under_another_name_are_refused(tmp_path, tensors):
    path = write_directory(
        tmp_path / "m", hf_config(transformers_weights="b.safetensors"), [tensors]
    )
    with pytest.raises(ConfigError, match=r"transformers_weights .* 'b\.safetensors'"):
        open_directory(path)


def test_float64_is_rounded_once_and_stays_finite(tmp_path, tensors):
    stored = {name: array + np.float64(1e-9) for name, array in tensors.items()}
    stored["model.norm.weight"][3] = 1e300
    checkpoint = open_directory(write_directory(tmp_path / "m", hf_config(), [stored]))
    name = "model.embed_tokens.weight"
    np.testing.assert_array_equal(checkpoint.read(name, np.dtype(np.float64)), stored[name])
    np.testing.assert_array_equal(checkpoint.read(name, FLOAT32), stored[name].astype(np.float32))
    for dtype in (FLOAT32, BFLOAT16):
        with pytest.raises(CheckpointError, match=r"norm\.weight .* finite .*1e\+300; use fp64"):
            checkpoint.read("model.norm.weight", dtype)


@pytest.mark.parametrize(
    "index",
    [
        "",
        "[]",
        "{",
        "{}",
        '{"weight_map": {}}',
        '{"weight_map": []}',
        '{"weight_map": {"a": 3}}',
        '{"weight_map": {"a": "../x.safetensors"}}',
        '{"weight_map": {"a": "/etc/passwd"}}',
        '{"weight_map": {"a": "pytorch_model.bin"}}',
        "[" * 100_000,
        "\udcff",
    ],
)
def test_a_malformed_index_is_refused(tmp_path, index):
    path = write_directory(tmp_path / "m", hf_config(), [{"a": np.zeros(1, np.float32)}])
    (path / "model.safetensors").unlink()
    (path / "model.safetensors.index.json").write_bytes(index.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match=r"index\.json"):
        open_directory(path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth"])
def test_pickle_is_never_loaded(tmp_path, name):
    (tmp_path / "config.json").write_text(json.dumps(hf_config()))
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(CheckpointError, match=f"pickle .{name}.*never loaded"):
        open_directory(tmp_path)


def test_a_directory_without_weights_says_what_belongs_there(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(hf_config()))
    with pytest.raises(CheckpointError, match=r"must hold model\.safetensors"):
        open_directory(tmp_path)


@pytest.mark.parametrize("text", [None, "", "[1]", "{", '{"model_type": "llama"}', '{"a": 1e999}'])
def test_a_malformed_config_is_a_config_error(tmp_path, text):
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError):
        open_directory(tmp_path)


@pytest.mark.parametrize("name", ["M.GGUF", "sha256-00", "model.bin"])
def test_a_gguf_file_is_known_by_its_first_bytes(tmp_path, tensors, name):
    checkpoint = open_checkpoint(write_gguf(tmp_path / name, hf_config(), tensors))
    assert checkpoint.gguf_metadata is not None


@pytest.mark.parametrize("has_config", [False, True])
def test_of_a_directory_of_gguf_files_one_is_to_be_given(tmp_path, tensors, has_config):
    write_gguf(tmp_path / "m.Q8_0.gguf", hf_config(), tensors)
    if has_config:  # as repositories of GGUF files often have it
        (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointError, match=r"give one of them, such as m\.Q8_0\.gguf"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["nothing", "notes.txt"])
def test_a_path_that_holds_no_model(tmp_path: Path, name):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointError, match=f"a model is .*{name}"):
        open_checkpoint(tmp_path / name)
