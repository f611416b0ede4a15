"""Writing Hugging Face directories, and converting to them."""

import json
import os
import stat
import sys

import ml_dtypes
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from safetensors.numpy import load_file

from tests.checkpoint.tiny import hf_config, random_tensors, write_directory, write_gguf
from tests.paths import STORY, needs_story, smollm2_gguf
from tests.text.directories import byte_level, write_tokenizer
from xplm.backend import load_backend
from xplm.checkpoint.convert import convert
from xplm.checkpoint.load import load_params
from xplm.checkpoint.opening import open_checkpoint
from xplm.errors import CheckpointError, RequestError
from xplm.models.families.config_json import write_config
from xplm.runtime import make_runtime
from xplm.text.tokenizer import Tokenizer

DTYPES = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}
FLOAT32 = np.dtype(np.float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_safetensors_library_reads_what_is_written(tmp_path, dtype):
    tensors = random_tensors(hf_config())
    source = write_directory(tmp_path / "a", hf_config(), [tensors])
    convert(source, tmp_path / "b", dtype)

    written = load_file(tmp_path / "b" / "model.safetensors")
    assert written.keys() == tensors.keys()
    for name, array in tensors.items():
        assert written[name].dtype == DTYPES[dtype]
        np.testing.assert_array_equal(written[name], array.astype(DTYPES[dtype]))
    assert open_checkpoint(tmp_path / "b").config == open_checkpoint(source).config


def test_shards_hold_no_more_than_they_may(tmp_path):
    tensors = random_tensors(hf_config())
    source = write_directory(tmp_path / "a", hf_config(), [tensors])
    convert(source, tmp_path / "b", "fp32", shard_bytes=20_000)

    index = json.loads((tmp_path / "b" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in tensors.values())
    shards = sorted((tmp_path / "b").glob("*.safetensors"))
    assert len(shards) > 2
    assert sorted(set(index["weight_map"].values())) == [shard.name for shard in shards]
    for shard in shards:
        assert sum(array.nbytes for array in load_file(shard).values()) <= 20_000

    checkpoint = open_checkpoint(tmp_path / "b")
    for name, array in tensors.items():
        np.testing.assert_array_equal(checkpoint.read(name, FLOAT32), array)


def test_a_tensor_larger_than_a_shard_has_one_of_its_own(tmp_path):
    source = write_directory(tmp_path / "a", hf_config(), [random_tensors(hf_config())])
    convert(source, tmp_path / "b", "fp32", shard_bytes=1)
    assert len(list((tmp_path / "b").glob("*.safetensors"))) == 20


@needs_story
def test_tokenizer_files_come_along(tmp_path):
    convert(STORY, tmp_path / "story", "fp16")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "story" / name).read_bytes() == (STORY / name).read_bytes()
    assert json.loads((tmp_path / "story" / "config.json").read_text())["torch_dtype"] == "float16"


@needs_story
def test_transformers_loads_the_story_model_as_it_was(tmp_path):
    torch = pytest.importorskip("torch", reason="the oracle is transformers on torch")
    transformers = pytest.importorskip("transformers")
    convert(STORY, tmp_path / "story", "fp32")
    ids = torch.arange(1, 40)[None]
    before, after = (
        transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)(ids).logits
        for path in (STORY, tmp_path / "story")
    )
    assert torch.equal(before, after)


def test_smollm2_becomes_a_directory_with_its_tokenizer(tmp_path):
    gguf = open_checkpoint(smollm2_gguf())
    convert(smollm2_gguf(), tmp_path / "m", "bf16")
    checkpoint = open_checkpoint(tmp_path / "m")
    assert checkpoint.config == gguf.config
    name = "model.layers.29.self_attn.q_proj.weight"
    bf16 = np.dtype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(checkpoint.read(name, bf16), gguf.read(name, bf16))

    text = "Hello, 2024! 你好"
    assert gguf.gguf_metadata is not None
    expected = Tokenizer.from_gguf(gguf.gguf_metadata)
    tokenizer = Tokenizer.from_directory(tmp_path / "m")
    assert tokenizer.encode(text) == expected.encode(text)
    assert tokenizer.chat_template == expected.chat_template
    assert tokenizer.eos_token_ids == expected.eos_token_ids

    generation = json.loads((tmp_path / "m" / "generation_config.json").read_text())
    assert generation == {
        "eos_token_id": list(expected.eos_token_ids),
        "bos_token_id": expected.bos_token_id,
        "pad_token_id": expected.pad_token_id,
    }


def test_dequantised_weights_load_alike_from_both(tmp_path):
    config = hf_config(tie_word_embeddings=False)
    path = write_gguf(tmp_path / "m.gguf", config, random_tensors(config), Kind.Q4_0)
    rt = make_runtime(load_backend("numpy"), "fp32")
    gguf = open_checkpoint(path)

    directory = tmp_path / "m"
    write_directory(directory, write_config(gguf.config), [dict(load_params(gguf, rt))])
    convert(directory, tmp_path / "again", "fp32")
    for name, array in load_params(open_checkpoint(tmp_path / "again"), rt).items():
        np.testing.assert_array_equal(array, gguf.read(name, FLOAT32))


@pytest.mark.skipif(sys.platform != "linux", reason="open files are named by /proc")
def test_copied_files_are_flushed_to_the_disk(tmp_path, monkeypatch):
    source = write_directory(tmp_path / "a", hf_config(), [random_tensors(hf_config())])
    (source / "vocab.json").write_text("{}" * 100)
    flushed = {}

    def sync(descriptor):
        flushed[os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))] = os.fstat(descriptor)

    monkeypatch.setattr("xplm.checkpoint.files.os.fsync", sync)
    convert(source, tmp_path / "b", "fp32")
    assert {"vocab.json", "config.json", "model.safetensors"} <= flushed.keys()
    for name, state in flushed.items():
        if stat.S_ISREG(state.st_mode):  # nothing of the file was still in a buffer
            assert state.st_size == (tmp_path / "b" / name).stat().st_size
    assert tmp_path.name in flushed  # the new directory's own name is there too


def test_a_name_that_is_too_long_is_said(tmp_path):
    source = write_directory(tmp_path / "a", hf_config(), [random_tensors(hf_config())])
    with pytest.raises(CheckpointError, match="must be writable; got: File name too long"):
        convert(source, tmp_path / ("b" * 300), "fp32")
    with pytest.raises(CheckpointError, match="is nothing"):
        convert(tmp_path / ("a" * 300), tmp_path / "b", "fp32")


def test_tied_embeddings_that_differ_are_not_converted(tmp_path):
    tensors = random_tensors(hf_config())
    other = {"lm_head.weight": tensors["model.embed_tokens.weight"] + 1}
    source = write_directory(tmp_path / "a", hf_config(), [tensors | other])
    with pytest.raises(CheckpointError, match="set tie_word_embeddings to false"):
        convert(source, tmp_path / "b", "fp32")


@pytest.mark.parametrize("dtype", ["fp64", "int8", ""])
def test_a_dtype_that_checkpoints_do_not_have(tmp_path, dtype):
    with pytest.raises(RequestError, match="fp32, fp16 or bf16"):
        convert(tmp_path, tmp_path / "b", dtype)


def test_an_existing_directory_is_kept(tmp_path):
    source = write_directory(tmp_path / "a", hf_config(), [random_tensors(hf_config())])
    with pytest.raises(CheckpointError, match="must not exist yet"):
        convert(source, source, "fp32")


def test_a_failed_conversion_leaves_nothing(tmp_path):
    tensors = random_tensors(hf_config())
    tensors["model.norm.weight"][0] = 1e5
    source = write_directory(tmp_path / "a", hf_config(), [tensors])
    with pytest.raises(CheckpointError, match="must stay finite in float16"):
        convert(source, tmp_path / "b", "fp16")
    assert list(tmp_path.iterdir()) == [source]


def test_every_chat_template_survives(tmp_path):
    source = write_directory(tmp_path / "a", hf_config(), [random_tensors(hf_config())])
    config = {"chat_template": [{"name": "tool_use", "template": "T"}]}
    write_tokenizer(source, byte_level(), tokenizer_config_json=config)
    convert(source, tmp_path / "b", "fp32")
    again = Tokenizer.from_directory(tmp_path / "b")
    assert (again.chat_template, again.named_templates) == (None, {"tool_use": "T"})

    files = {"chat_template_jinja": "D", "additional_chat_templates__rag_jinja": "R"}
    write_tokenizer(source, byte_level(), chat_template_json={"chat_template": "J"}, **files)
    convert(source, tmp_path / "c", "fp32")
    again = Tokenizer.from_directory(tmp_path / "c")
    assert (again.chat_template, again.named_templates) == ("D", {"rag": "R"})

    for name in ("chat_template.jinja", "tokenizer_config.json"):
        (tmp_path / "c" / name).unlink()
    (tmp_path / "c" / "additional_chat_templates" / "rag.jinja").unlink()
    assert Tokenizer.from_directory(tmp_path / "c").chat_template == "J"
    again.save(tmp_path / "c")
    assert Tokenizer.from_directory(tmp_path / "c").named_templates == {"rag": "R"}
