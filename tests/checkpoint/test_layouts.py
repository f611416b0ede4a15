"""GPT-2's and StarCoder2's files: what lies where in them, read and written."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.checkpoint.tiny import random_tensors
from xplm.backend import load_backend
from xplm.checkpoint.files import write_json
from xplm.checkpoint.huggingface import open_directory
from xplm.checkpoint.layouts import stored_tensors
from xplm.checkpoint.load import load_params
from xplm.checkpoint.save import save_directory
from xplm.errors import CheckpointError
from xplm.models.decoder import param_specs
from xplm.models.families.config_json import read_config
from xplm.runtime import make_runtime

GPT2 = {
    "model_type": "gpt2",
    "vocab_size": 20,
    "n_embd": 8,
    "n_inner": 12,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 16,
}
STARCODER2 = {
    "model_type": "starcoder2",
    "vocab_size": 20,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "use_bias": True,
    "norm_epsilon": 1e-5,
}


def write(path, hf):
    """A directory as `save_directory` writes it, and what went into it."""
    config, tensors = read_config(hf), random_tensors(hf)
    shapes = {name: x.shape for name, x in tensors.items()}
    save_directory(
        path,
        config,
        shapes,
        lambda name, dtype: tensors[name].astype(dtype),
        "float32",
        lambda _: None,
    )
    return tensors


def load(path):
    return load_params(open_directory(path), make_runtime(load_backend("numpy"), "fp32"))


@pytest.mark.parametrize("hf", [GPT2, STARCODER2], ids=["gpt2", "starcoder2"])
def test_written_and_read_back(tmp_path, hf):
    tensors = write(tmp_path / "model", hf)
    params = load(tmp_path / "model")
    assert list(params) == list(param_specs(read_config(hf)))
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(params[name], tensor)


def test_gpt2_joins_q_k_and_v_and_transposes_matrices(tmp_path):
    ours = write(tmp_path / "model", GPT2)
    stored = load_file(tmp_path / "model" / "model.safetensors")
    layer, attention = "transformer.h.1", "model.layers.1.self_attn"
    q, k, v = (ours[f"{attention}.{part}_proj.weight"] for part in "qkv")
    np.testing.assert_array_equal(stored[f"{layer}.attn.c_attn.weight"], np.hstack([q.T, k.T, v.T]))
    biases = [ours[f"{attention}.{part}_proj.bias"] for part in "qkv"]
    np.testing.assert_array_equal(stored[f"{layer}.attn.c_attn.bias"], np.concatenate(biases))
    np.testing.assert_array_equal(
        stored[f"{layer}.mlp.c_fc.weight"], ours["model.layers.1.mlp.up_proj.weight"].T
    )
    np.testing.assert_array_equal(
        stored["transformer.wte.weight"], ours["model.embed_tokens.weight"]
    )
    np.testing.assert_array_equal(
        stored["transformer.wpe.weight"], ours["model.embed_positions.weight"]
    )
    assert stored[f"{layer}.ln_2.weight"].shape == (8,)


def test_starcoder2_differs_in_two_names(tmp_path):
    ours = write(tmp_path / "model", STARCODER2)
    stored = load_file(tmp_path / "model" / "model.safetensors")
    assert {name.replace("c_fc", "up_proj").replace("c_proj", "down_proj") for name in stored} == {
        *ours
    }


def test_files_of_the_bare_gpt2_have_no_prefix_but_its_masks(tmp_path):
    ours = write(tmp_path / "model", GPT2)
    file = tmp_path / "model" / "model.safetensors"
    bare = {name.removeprefix("transformer."): x for name, x in load_file(file).items()}
    bare["h.0.attn.bias"] = np.ones((1, 1, 16, 16), np.float32)
    bare["h.1.attn.masked_bias"] = np.zeros((), np.float32)
    save_file(bare, file)
    params = load(tmp_path / "model")
    for name, tensor in ours.items():
        np.testing.assert_array_equal(params[name], tensor)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"transformer.h.0.attn.c_attn.weight": np.zeros((8, 21), np.float32)},
            r"\(7, 8\) where \(8, 8\)",
        ),
        ({"transformer.h.0.attn.c_attn.weight": np.zeros((8, 20), np.float32)}, r"\(20, 8\) where"),
        (
            {"transformer.h.0.extra": np.zeros(3, np.float32)},
            r"unexpected: transformer\.h\.0\.extra",
        ),
        ({"transformer.ln_f.bias": None}, r"missing: model\.norm\.bias"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, change, message):
    write(tmp_path / "model", GPT2)
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file) | change
    save_file({name: x for name, x in tensors.items() if x is not None}, file)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "model")


def test_every_parameter_lies_in_one_stored_tensor():
    for hf in (GPT2, STARCODER2):
        config = read_config(hf)
        stored = [name for row in stored_tensors(config) for name in row.parameters]
        assert sorted(stored) == sorted(param_specs(config))


def test_a_llama_is_stored_as_it_is(tmp_path):
    hf = STARCODER2 | {"model_type": "llama"}
    tensors = write(tmp_path / "model", hf)
    assert {*load_file(tmp_path / "model" / "model.safetensors")} == {*tensors}
    write_json(tmp_path / "model" / "config.json", hf)
    assert {*load(tmp_path / "model")} == {*tensors}
