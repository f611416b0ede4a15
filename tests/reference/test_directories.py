"""Directories whose files contradict each other, and a GGUF file that is converted, against transformers."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import xplm
from tests.checkpoint.tiny import hf_config, random_tensors, write_gguf
from xplm.checkpoint.convert import convert

BOUND = 1e-4
IDS = [5, 6, 7, 8, 9]
INDEX = "model.safetensors.index.json"


def write(path, files, index):
    """A directory of these shards, and an index that says so or otherwise."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(hf_config(architectures=["LlamaForCausalLM"])))
    for name, tensors in files.items():
        save_file(tensors, path / name, metadata={"format": "pt"})
    (path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}))


def shifted(tensors, by):
    return {name: array + np.float32(by) for name, array in tensors.items()}


@pytest.mark.parametrize("layout", ["one file beside a stale index", "tensors in two shards"])
def test_the_files_used_are_those_of_transformers(tmp_path, load_oracle, layout):
    tensors = random_tensors(hf_config())
    first, last = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    if layout == "one file beside a stale index":
        files = {"model.safetensors": tensors, first: shifted(tensors, 0.5)}
    else:
        files = {first: shifted(tensors, 0.5), last: tensors}
    index = dict.fromkeys(tensors, first) | ({"model.norm.weight": last} if last in files else {})
    write(tmp_path / "m", files, index)

    logits = xplm.load(tmp_path / "m").logits(IDS)
    assert np.abs(logits - load_oracle(tmp_path / "m").logits(IDS)).max() <= BOUND


def test_a_llama_file_with_biases_of_q_k_and_v_is_converted_to_a_qwen2(tmp_path, load_oracle):
    config = hf_config(model_type="qwen2")
    path = write_gguf(tmp_path / "m.gguf", config, random_tensors(config), arch="llama")
    convert(path, tmp_path / "m", "fp32")
    oracle = load_oracle(tmp_path / "m")
    assert type(oracle.model).__name__ == "Qwen2ForCausalLM"
    assert np.abs(xplm.load(path).logits(IDS) - oracle.logits(IDS)).max() <= BOUND
