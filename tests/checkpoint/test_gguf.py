"""Opening GGUF files: names, row order, dequantisation, configuration."""

import gguf
import ml_dtypes
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from tests.checkpoint.tiny import LONGROPE, hf_config, random_tensors, write_gguf
from tests.paths import smollm2_gguf
from tests.tiny import facts
from xplm.checkpoint import gguf as gguf_module
from xplm.checkpoint.gguf import QUANTISED_KINDS, open_gguf
from xplm.checkpoint.gguf_config import get_layout
from xplm.checkpoint.gguf_header import StoredTensor
from xplm.checkpoint.gguf_names import gguf_name, hugging_face_name, join_names
from xplm.errors import CheckpointError
from xplm.models.decoder import param_specs
from xplm.models.families.config_json import read_config
from xplm.models.families.gguf import JOINED, GGUFLayout

FLOAT32 = np.dtype(np.float32)
MEMBERS = Kind.__members__
QUANTISABLE = [Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0]
QUANTISABLE += [Kind.MXFP4] if "MXFP4" in MEMBERS else []
IN_BLOCKS = [Kind.Q2_K, Kind.Q3_K, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K]
IN_BLOCKS += [kind for name, kind in MEMBERS.items() if name.startswith(("IQ", "TQ", "NVFP4"))]

PHI = {"model_type": "phi", "tie_word_embeddings": False}  # half of a head is rotated
PHI3_LONG = {
    "model_type": "phi3",
    "rope_scaling": LONGROPE,
    "original_max_position_embeddings": 32,
}
FAMILIES = {
    "llama": {},
    "llama, untied": {"tie_word_embeddings": False},
    "llama, biases": {"attention_bias": True, "mlp_bias": True},
    "mistral": {"model_type": "mistral", "sliding_window": 16},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3", "head_dim": 16},
    "smollm3": {"model_type": "smollm3", "attention_bias": True},
    "seed_oss": {"model_type": "seed_oss"},
    "ernie4_5": {"model_type": "ernie4_5"},
    "glm4": {"model_type": "glm4"},
    "exaone4": {"model_type": "exaone4", "sliding_window": None},
    "olmo2": {"model_type": "olmo2"},
    "olmo3": {"model_type": "olmo3", "sliding_window": 16, "rope_theta": 500_000.0},
    "phi3": {"model_type": "phi3"},
    "phi3, longrope, a window": PHI3_LONG | {"sliding_window": 16},
    "gpt2": {"model_type": "gpt2", "n_inner": 64, "num_key_value_heads": 4},
    "starcoder2": {"model_type": "starcoder2", "sliding_window": None},
    "phi": PHI,
    "phi, all of a head rotated": PHI | {"partial_rotary_factor": 1.0},
}
LLAMA = get_layout("llama")


def write_family(tmp_path, changes):
    config = hf_config(**changes)
    tensors = random_tensors(config)
    return config, tensors, write_gguf(tmp_path / "m.gguf", config, tensors)


@pytest.mark.parametrize("changes", FAMILIES.values(), ids=FAMILIES)
def test_a_family_comes_back_as_it_was(tmp_path, changes):
    config, tensors, path = write_family(tmp_path, changes)
    checkpoint = open_gguf(path)

    assert checkpoint.tensors.keys() == tensors.keys()
    for name, array in tensors.items():
        np.testing.assert_array_equal(checkpoint.read(name, FLOAT32), array, err_msg=name)
    for field in ("model_type", "hidden_size", "tie_word_embeddings"):
        assert getattr(checkpoint.config, field) == config[field]
    assert facts(checkpoint.config).num_key_value_heads == config["num_key_value_heads"]
    assert facts(checkpoint.config).windows == (changes.get("sliding_window"),) * 2


def test_rows_of_q_are_uninterleaved_by_hand(tmp_path):
    # One head of 4: GGUF's rows a0 b0 a1 b1 must come back as a0 a1 b0 b1.
    config = hf_config(num_attention_heads=1, num_key_value_heads=1, head_dim=4, hidden_size=4)
    tensors = random_tensors(config)
    q = "model.layers.0.self_attn.q_proj.weight"
    tensors[q] = np.repeat(np.arange(4, dtype=np.float32)[:, None], 4, axis=1)
    path = write_gguf(tmp_path / "m.gguf", config, tensors)

    stored = next(t for t in gguf.GGUFReader(path).tensors if t.name == "blk.0.attn_q.weight")
    np.testing.assert_array_equal(stored.data[:, 0], [0, 2, 1, 3])
    np.testing.assert_array_equal(open_gguf(path).read(q, FLOAT32)[:, 0], [0, 1, 2, 3])


def test_norms_of_a_gemma_are_stored_with_1_added(tmp_path):
    config = hf_config(model_type="gemma", head_dim=8)
    tensors = random_tensors(config)
    norm, q = "model.layers.0.input_layernorm.weight", "model.layers.0.self_attn.q_proj.weight"
    tensors[norm] = np.linspace(-0.5, 0.5, len(tensors[norm]), dtype=np.float32)
    path = write_gguf(tmp_path / "m.gguf", config, tensors)

    stored = {t.name: t.data for t in gguf.GGUFReader(path).tensors}
    np.testing.assert_array_equal(stored["blk.0.attn_norm.weight"], 1.0 + tensors[norm])
    np.testing.assert_array_equal(stored["blk.0.attn_q.weight"], tensors[q])
    read = open_gguf(path).read(norm, FLOAT32)
    assert read.dtype == FLOAT32
    assert np.abs(read - tensors[norm]).max() <= 2.0**-24  # half a step of a number up to 2


@pytest.mark.parametrize("kind", [Kind.F16, Kind.BF16, *QUANTISABLE], ids=lambda kind: kind.name)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_a_kind_is_dequantised_then_rounded_once(tmp_path, kind, dtype):
    config = hf_config()
    tensors = random_tensors(config)
    checkpoint = open_gguf(write_gguf(tmp_path / "m.gguf", config, tensors, kind))

    for name, array in tensors.items():
        expected = array
        if array.ndim == 2:
            expected = gguf.quants.dequantize(gguf.quants.quantize(array, kind), kind)
            assert checkpoint.tensors[name].kind == kind.name
        read = checkpoint.read(name, np.dtype(dtype))
        np.testing.assert_array_equal(read, expected.astype(dtype), err_msg=name)


def test_a_block_of_q4_0_by_hand():
    # Half a scale of 0.5, then nibbles: the low ones are the first 16 values, each less 8.
    block = np.frombuffer(np.float16(0.5).tobytes() + bytes([0x8F] * 16), np.uint8)
    values = gguf_module._widen(block[None, :], Kind.Q4_0)
    np.testing.assert_array_equal(values, [[3.5] * 16 + [0.0] * 16])


@pytest.mark.parametrize(
    ("kind", "block", "low", "high"),
    [
        # A scale of 0.5; 16 values by the low halves of 16 bytes, then 16 by the high halves.
        ("IQ4_NL", np.float16(0.5).tobytes() + bytes([0xF0] * 16), -127 * 0.5, 113 * 0.5),
        ("MXFP4", bytes([126]) + bytes([0xF1] * 16), 0.5 * 0.5, -6.0 * 0.5),
    ],
)
def test_a_block_of_sixteen_levels_by_hand(kind, block, low, high):
    if kind not in MEMBERS:
        pytest.skip(f"this release of the gguf package has no {kind}")
    values = gguf_module._widen(np.frombuffer(block, np.uint8)[None, :], Kind[kind])
    np.testing.assert_array_equal(values, [[low] * 16 + [high] * 16])


@pytest.mark.parametrize("kind", [Kind.TQ1_0, Kind.TQ2_0], ids=lambda kind: kind.name)
def test_ternary_weights_come_back_exactly(tmp_path, kind):
    config = hf_config(hidden_size=256, intermediate_size=256, head_dim=64)
    rng = np.random.default_rng(3)
    tensors = {
        name: array
        if array.ndim == 1
        else 0.5 * rng.integers(-1, 2, array.shape).astype(np.float32)
        for name, array in random_tensors(config).items()
    }
    checkpoint = open_gguf(write_gguf(tmp_path / "m.gguf", config, tensors, kind))
    for name, array in tensors.items():
        np.testing.assert_array_equal(checkpoint.read(name, FLOAT32), array, err_msg=name)


@pytest.mark.parametrize("kind", IN_BLOCKS, ids=lambda kind: kind.name)
def test_random_blocks_of_a_kind(tmp_path, monkeypatch, kind):
    config = hf_config(hidden_size=256, intermediate_size=512, vocab_size=7)
    tensors = random_tensors(config)
    name = "model.layers.1.mlp.down_proj.weight"  # (256, 512)
    block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    packed = np.random.default_rng(1).integers(0, 256, (256, 512 // block * block_bytes), np.uint8)
    del tensors[name]
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor(gguf_name(name, LLAMA), packed, raw_dtype=kind)
    writer.add_tensor("token_embd.weight", tensors["model.embed_tokens.weight"])
    for key, value in {
        "block_count": 2,
        "context_length": 64,
        "embedding_length": 256,
        "feed_forward_length": 512,
        "attention.head_count": 4,
    }.items():
        writer.add_uint32(f"llama.{key}", value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    with np.errstate(all="ignore"):  # random scales may be NaN or infinite
        expected = gguf.quants.dequantize(packed, kind)
    assert expected.shape == (256, 512)
    for elements_at_once in (1000, 2**18):
        monkeypatch.setattr(gguf_module, "ELEMENTS_AT_ONCE", elements_at_once)
        read = open_gguf(path).read(name, FLOAT32)
        np.testing.assert_array_equal(read, expected)


def test_every_promised_kind_is_tested():
    assert set(QUANTISED_KINDS) == {*QUANTISABLE, *IN_BLOCKS}


def test_float64_is_rounded_once(tmp_path):
    config = hf_config()
    tensors = {name: array + np.float64(1e-9) for name, array in random_tensors(config).items()}
    checkpoint = open_gguf(write_gguf(tmp_path / "m.gguf", config, tensors))
    for name, array in tensors.items():
        np.testing.assert_array_equal(checkpoint.read(name, np.dtype(np.float64)), array)
        np.testing.assert_array_equal(checkpoint.read(name, FLOAT32), array.astype(np.float32))


def test_a_llama_with_biases_of_q_k_and_v_alone_is_a_qwen2(tmp_path):
    ours = hf_config(model_type="qwen2")
    tensors = random_tensors(ours)
    path = write_gguf(tmp_path / "m.gguf", ours, tensors, arch="llama")
    checkpoint = open_gguf(path)
    assert checkpoint.config.model_type == "qwen2"
    for name, array in tensors.items():
        np.testing.assert_array_equal(checkpoint.read(name, FLOAT32), array, err_msg=name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output_norm.weight", "model.norm.weight"),
        ("output.weight", "lm_head.weight"),
        ("blk.12.attn_q.bias", "model.layers.12.self_attn.q_proj.bias"),
        ("blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight"),
        ("blk.0.attn_rot_embd.weight", "blk.0.attn_rot_embd.weight"),
        ("blk.0.attn_q_norm.weight", "blk.0.attn_q_norm.weight"),
        ("blk.x.attn_q.weight", "blk.x.attn_q.weight"),
        ("strange", "strange"),
    ],
)
def test_names(name, expected):
    assert hugging_face_name(name, LLAMA) == expected
    assert gguf_name(expected, LLAMA) == name


def test_names_of_a_family_of_its_own():
    theirs, ours = "blk.3.attn_q_norm.weight", "model.layers.3.self_attn.q_norm.weight"
    assert hugging_face_name(theirs, get_layout("qwen3")) == ours
    assert gguf_name(ours, get_layout("qwen3")) == theirs


@pytest.mark.parametrize("kind", [Kind.F32, Kind.Q8_0], ids=lambda kind: kind.name)
@pytest.mark.parametrize(
    ("changes", "arch"),
    [*((changes, None) for changes in FAMILIES.values()), ({"model_type": "qwen2"}, "llama")],
    ids=[*FAMILIES, "qwen2 as a llama"],
)
def test_joined_q_k_and_v_are_read_as_three(tmp_path, changes, arch, kind):
    config = hf_config(**changes)
    tensors = random_tensors(config)
    path = write_gguf(tmp_path / "m.gguf", config, tensors, kind, arch=arch, is_joined=True)
    checkpoint = open_gguf(path)

    assert checkpoint.config.model_type == config["model_type"]
    assert checkpoint.tensors.keys() == tensors.keys()
    for name, array in tensors.items():
        expected = array
        if array.ndim == 2:
            expected = gguf.quants.dequantize(gguf.quants.quantize(array, kind), kind)
        assert checkpoint.tensors[name].shape == array.shape
        np.testing.assert_array_equal(checkpoint.read(name, FLOAT32), expected, err_msg=name)


def test_joined_rows_of_another_model_are_refused(tmp_path):
    config = hf_config(**PHI)
    wrong = {"blk.1.attn_qkv.weight": np.zeros((65, 32), np.float32)}
    path = write_gguf(tmp_path / "m.gguf", config, random_tensors(config), extra=wrong)
    with pytest.raises(
        CheckpointError, match=r"blk\.1\.attn_qkv\.weight .* 32 \+ 16 \+ 16.*\(65, 32\)"
    ):
        open_gguf(path)


def test_joined_biases_whose_blocks_cannot_be_cut_are_refused():
    config = read_config(hf_config(**PHI))
    packed = {"blk.0.attn_qkv.bias": StoredTensor((64,), Kind.Q8_0, 0, row_bytes=68, n_bytes=68)}
    with pytest.raises(CheckpointError, match=r"one by one; it has the shape \(64,\) in Q8_0"):
        dict(gguf_module._split_joined(packed, config, get_layout("phi")))


def test_modules_that_a_layout_joins():
    """Gate above up, under the name of up."""
    layout = GGUFLayout("x", joined=JOINED | {"ffn_up": ("ffn_gate", "ffn_up")})
    config = read_config(hf_config())
    names = join_names(param_specs(config), layout)
    mlp = "model.layers.1.mlp"
    assert names["blk.1.ffn_up.weight"] == (f"{mlp}.gate_proj.weight", f"{mlp}.up_proj.weight")
    assert len(names["blk.1.attn_qkv.weight"]) == 3
    assert not {"blk.1.ffn_gate.weight", "blk.1.attn_k.weight"} & names.keys()

    whole = StoredTensor((128, 32), Kind.F16, offset=100, row_bytes=64, n_bytes=128 * 64)
    stored = {"blk.1.ffn_up.weight": whole, "blk.0.ffn_down.weight": whole}
    gate, up, down = gguf_module._split_joined(stored, config, layout)
    assert gate == ("blk.1.ffn_gate.weight", whole._replace(shape=(64, 32), n_bytes=4096))
    assert up == ("blk.1.ffn_up.weight", gate[1]._replace(offset=100 + 4096))
    assert down == ("blk.0.ffn_down.weight", whole)

    unknown = {"blk.9.ffn_up.weight": whole}  # of no layer
    assert dict(gguf_module._split_joined(unknown, config, layout)) == unknown


def test_a_tensor_that_is_stored_alone_and_joined_is_refused(tmp_path):
    config = hf_config(**PHI)
    twice = {"blk.1.attn_qkv.weight": np.zeros((64, 32), np.float32)}
    path = write_gguf(tmp_path / "m.gguf", config, random_tensors(config), extra=twice)
    with pytest.raises(CheckpointError, match=r"layers\.1\.self_attn\.\w_proj\.weight twice"):
        open_gguf(path)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_a_file_that_shrank_or_went_after_opening(tmp_path, dtype):
    _, _, path = write_family(tmp_path, {})
    checkpoint = open_gguf(path)
    unreadable = pytest.raises(
        CheckpointError, match=r"model\.embed_tokens\.weight must be readable"
    )
    path.write_bytes(path.read_bytes()[:4096])
    with unreadable:
        checkpoint.read("model.embed_tokens.weight", np.dtype(dtype))
    path.unlink()
    with unreadable:
        checkpoint.read("model.embed_tokens.weight", np.dtype(dtype))


@pytest.mark.nightly
def test_smollm2_against_transformers():
    pytest.importorskip("torch", reason="the oracle is transformers on torch")
    loader = pytest.importorskip("transformers.modeling_gguf_pytorch_utils")
    checkpoint = open_gguf(smollm2_gguf())
    config = checkpoint.config
    assert (config.hidden_size, config.num_hidden_layers, facts(config).head_dim) == (576, 30, 64)
    assert (config.bos_token_id, config.eos_token_id) == (1, (2,))
    assert config.tie_word_embeddings

    # transformers' own undoing of the row order, on our dequantised tensor put back into it.
    processor = loader.LlamaTensorProcessor()
    stored_tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(smollm2_gguf()).tensors}
    for name, n_heads in (("q_proj", 9), ("k_proj", 3)):
        name = f"model.layers.7.self_attn.{name}.weight"
        read = checkpoint.read(name, FLOAT32)
        stored = stored_tensors[gguf_name(name, LLAMA)]
        raw = gguf.quants.dequantize(stored.data, stored.tensor_type)
        expected = processor._reverse_permute_weights(raw, n_heads, n_heads)
        np.testing.assert_array_equal(read, expected)
