"""Loading parameters: what is refused before anything is allocated, and what a load costs."""

import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from tests.checkpoint.tiny import hf_config, random_tensors, write_directory, write_gguf
from tests.paths import STORY, needs_story, smollm2_gguf
from xplm.backend import load_backend
from xplm.checkpoint.load import load_params
from xplm.checkpoint.opening import open_checkpoint
from xplm.errors import CheckpointError, OutOfMemoryError
from xplm.models.decoder import param_specs
from xplm.runtime import make_runtime

EMBEDDING, LM_HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture
def rt():
    return make_runtime(load_backend("numpy"), "fp32")


def open_with(tmp_path, tensors, **changes):
    return open_checkpoint(write_directory(tmp_path / "m", hf_config(**changes), [tensors]))


@pytest.mark.parametrize(
    ("policy", "dtype"),
    [
        ("fp32", np.float32),
        ("fp16", np.float16),
        ("bf16", ml_dtypes.bfloat16),
        ("bf16,param=fp32", np.float32),
    ],
)
def test_parameters_arrive_in_the_policys_dtype(tmp_path, policy, dtype):
    tensors = random_tensors(hf_config())
    params = load_params(open_with(tmp_path, tensors), make_runtime(load_backend("numpy"), policy))
    assert list(params) == list(tensors)  # in the table's order, whatever the order of loading
    for name, array in tensors.items():
        assert params[name].dtype == dtype
        np.testing.assert_array_equal(params[name], array.astype(dtype))


def test_parameters_go_to_the_backends_device(tmp_path):
    backend = load_backend("strict", "cuda")
    tensors = random_tensors(hf_config())
    params = load_params(open_with(tmp_path, tensors), make_runtime(backend, "fp32"))
    for name, array in tensors.items():
        assert params[name].device == backend.device
        np.testing.assert_array_equal(backend.to_host(params[name]), array)


@pytest.mark.parametrize("stored", [[EMBEDDING], [LM_HEAD], [EMBEDDING, LM_HEAD]])
def test_tied_embeddings_under_either_name(tmp_path, rt, stored):
    tensors = random_tensors(hf_config())
    table = tensors.pop(EMBEDDING)
    checkpoint = open_with(tmp_path, tensors | dict.fromkeys(stored, table))

    params = load_params(checkpoint, rt)
    assert LM_HEAD not in params
    np.testing.assert_array_equal(params[EMBEDDING], table)


def test_tied_embeddings_that_differ_are_refused(tmp_path, rt):
    tensors = random_tensors(hf_config())
    for name, other in (("a", tensors[EMBEDDING] + 1), ("b", tensors[EMBEDDING][:-1])):
        checkpoint = open_with(tmp_path / name, tensors | {LM_HEAD: other})
        with pytest.raises(CheckpointError, match=r"lm_head.*set tie_word_embeddings to false"):
            load_params(checkpoint, rt)


def test_untied_embeddings_are_two_parameters(tmp_path, rt):
    tensors = random_tensors(hf_config(tie_word_embeddings=False))
    params = load_params(open_with(tmp_path, tensors, tie_word_embeddings=False), rt)
    np.testing.assert_array_equal(params[EMBEDDING], tensors[EMBEDDING])
    np.testing.assert_array_equal(params[LM_HEAD], tensors[LM_HEAD])


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.layers.0.self_attn.rotary_emb.inv_freq", (4,)),
        ("model.layers.0.self_attn.rotary_emb.cos_cached", (1, 1, 128, 8)),
        ("model.rotary_emb.sin_cached", (128, 8)),
        ("model.layers.0.self_attn.k_proj.k_scale", (1,)),
        ("model.layers.0.self_attn.v_scale", ()),
        ("model.layers.0.self_attn.attn.k_scale", ()),
        ("model.layers.0.self_attn.bias", (1, 1, 128, 128)),
        ("transformer.h.0.attn.masked_bias", ()),
        ("model.position_ids", (1, 128)),
        ("v_head.summary.weight", (1, 32)),
        ("model.layers.0.self_attn._extra_state", (0,)),
    ],
)
def test_tensors_that_no_answer_depends_on_are_left_out(tmp_path, rt, name, shape):
    tensors = random_tensors(hf_config())
    extra = {name: np.zeros(shape, np.int32)}  # of any kind
    assert load_params(open_with(tmp_path, tensors | extra), rt).keys() == tensors.keys()


def test_layers_of_further_predictions_are_left_out_and_it_says_so(tmp_path, rt, caplog):
    tensors = random_tensors(hf_config())
    extra = {
        "model.layers.2.eh_proj.weight": np.zeros((32, 64), np.float32),
        "model.layers.2.shared_head.head.weight": np.zeros((64, 32), np.float32),
        "model.layers.2.self_attn.q_proj.weight": np.zeros((32, 32), np.float32),
    }
    assert load_params(open_with(tmp_path, tensors | extra), rt).keys() == tensors.keys()
    (line,) = caplog.messages
    assert "predict the token after the next are left out, and their 3 tensors" in line


def test_a_layer_behind_the_last_that_predicts_nothing_further_is_refused(tmp_path, rt):
    extra = {"model.layers.2.self_attn.q_proj.weight": np.zeros((32, 32), np.float32)}
    with pytest.raises(CheckpointError, match=r"unexpected: model\.layers\.2\.self_attn"):
        load_params(open_with(tmp_path, random_tensors(hf_config()) | extra), rt)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.layers.0.self_attn.bias", (32,)),  # a bias, and no mask
        ("model.layers.0.self_attn.k_scale", (8,)),  # learned, and no cache's
        ("model.layers.0.self_attn.k_proj.weight_scale", ()),
        ("model.layers.0.self_attn.q_norm.weight", (8,)),
        ("lm_head.bias", (64,)),
    ],
)
def test_tensors_that_an_answer_could_depend_on_are_refused(tmp_path, rt, name, shape):
    extra = {name: np.zeros(shape, np.float32)}
    with pytest.raises(CheckpointError, match=f"unexpected: {name}"):
        load_params(open_with(tmp_path, random_tensors(hf_config()) | extra), rt)


def test_missing_and_unexpected_names_come_together(tmp_path, rt):
    tensors = random_tensors(hf_config())
    del tensors["model.norm.weight"]
    tensors["model.surprise.weight"] = np.zeros(3, np.float32)
    with pytest.raises(CheckpointError) as error:
        load_params(open_with(tmp_path, tensors), rt)
    message = str(error.value)
    assert "missing: model.norm.weight" in message
    assert "unexpected: model.surprise.weight" in message
    assert "\n" not in message


def test_a_long_list_of_names_is_cut(tmp_path, rt):
    with pytest.raises(CheckpointError, match="and 15 more; unexpected: x0, x1"):
        load_params(open_with(tmp_path, {f"x{i}": np.zeros(1, np.float32) for i in range(2)}), rt)


def test_a_name_cannot_break_the_line_or_the_terminal(tmp_path, rt):
    tensors = random_tensors(hf_config()) | {"a\n\x1b[31m": np.zeros(1, np.float32)}
    with pytest.raises(CheckpointError, match=r"unexpected: a\\n\\x1b\[31m;"):
        load_params(open_with(tmp_path, tensors), rt)


def test_a_wrong_shape_is_named_with_the_right_one(tmp_path, rt):
    tensors = random_tensors(hf_config())
    tensors["model.norm.weight"] = np.zeros((33,), np.float32)
    with pytest.raises(
        CheckpointError, match=r"model\.norm\.weight of shape \(33,\) where \(32,\) belongs"
    ):
        load_params(open_with(tmp_path, tensors), rt)


@pytest.mark.parametrize("dtype", [np.int8, np.bool_])
def test_a_wrong_dtype_is_named(tmp_path, rt, dtype):
    tensors = random_tensors(hf_config())
    tensors["model.norm.weight"] = np.zeros((32,), dtype)
    with pytest.raises(CheckpointError, match=r"F64, F32, F16, BF16; got model\.norm\.weight as"):
        load_params(open_with(tmp_path, tensors), rt)


def test_a_gguf_kind_that_cannot_be_read_is_named(tmp_path, rt):
    tensors = random_tensors(hf_config())
    path = write_gguf(tmp_path / "m.gguf", hf_config(), tensors, Kind.Q8_0)
    content = path.read_bytes()
    at = content.index(b"blk.0.ffn_up.weight") + len(b"blk.0.ffn_up.weight") + 4 + 2 * 8
    assert content[at] == Kind.Q8_0
    path.write_bytes(content[:at] + bytes([Kind.I8]) + content[at + 1 :])  # smaller: still fits
    with pytest.raises(CheckpointError, match=r"got .*up_proj\.weight as I8"):
        load_params(open_checkpoint(path), rt)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 10**6, "intermediate_size": 10**6, "head_dim": 8},
        {"vocab_size": 2 * 10**9, "hidden_size": 10**3},
        {"num_attention_heads": 10**9, "num_key_value_heads": 10**9, "head_dim": 10**9},
    ],
)
def test_a_model_beyond_memory_is_refused_before_allocating(tmp_path, rt, changes):
    checkpoint = open_with(tmp_path, random_tensors(hf_config()), **changes)
    assert sum(s.size for s in param_specs(checkpoint.config).values()) > 10**12
    with pytest.raises(
        OutOfMemoryError, match=r"parameters .* must fit the free memory of cpu, .*iB; they take"
    ):
        load_params(checkpoint, rt)


def test_more_layers_than_tensors_are_refused(tmp_path, rt):
    checkpoint = open_with(tmp_path, random_tensors(hf_config()), num_hidden_layers=1000)
    with pytest.raises(CheckpointError, match=r"20 tensors for 1000 layers"):
        load_params(checkpoint, rt)


@needs_story
def test_the_story_model_stores_its_embedding_as_lm_head(rt):
    checkpoint = open_checkpoint(STORY)
    params = load_params(checkpoint, rt)
    assert params.keys() == param_specs(checkpoint.config).keys()
    np.testing.assert_array_equal(params[EMBEDDING], checkpoint.read(LM_HEAD, np.dtype(np.float32)))


# The kernel's VmHWM, for ru_maxrss of a child also counts the process that started it.
MEASURE = """
import re
import sys
from pathlib import Path
from xplm.backend import load_backend
from xplm.checkpoint.load import load_params
from xplm.checkpoint.opening import open_checkpoint
from xplm.runtime import make_runtime

def status(key):
    return 1024 * int(re.search(key + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

rt = make_runtime(load_backend("numpy"), "bf16")
checkpoint = open_checkpoint(Path(sys.argv[1]))
before = status("VmRSS")
params = load_params(checkpoint, rt)
print((status("VmHWM") - before) / sum(array.nbytes for array in params.values()))
"""

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="resident memory is read from Linux's /proc"
)


def peak_over_weights(path):
    """Peak resident memory of a bf16 load in a fresh process, over the bytes of the weights."""
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True
    )
    return float(run.stdout)


@pytest.mark.nightly
@needs_proc
def test_a_bf16_load_of_a_gguf_costs_its_weights_once():
    assert peak_over_weights(smollm2_gguf()) <= 1.2


@pytest.mark.nightly
@needs_proc
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_a_bf16_load_of_a_directory_costs_its_weights_once(tmp_path, dtype):
    # 0.1 G parameters. The largest tensor is a twentieth of them, and is read first.
    config = hf_config(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=6, vocab_size=4096, head_dim=256
    )
    tensors = {name: array.astype(dtype) for name, array in random_tensors(config).items()}
    path = write_directory(tmp_path / "m", config, [tensors])
    assert peak_over_weights(path) <= 1.2
