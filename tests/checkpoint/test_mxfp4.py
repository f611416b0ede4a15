"""Directories whose experts are quantised to MXFP4."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from safetensors.numpy import load_file, save_file

import xplm
from tests.checkpoint.tiny import hf_config, random_tensors, write_directory
from xplm.checkpoint.convert import convert
from xplm.checkpoint.huggingface import open_directory
from xplm.checkpoint.layouts import pack
from xplm.checkpoint.mxfp4 import dequantise
from xplm.checkpoint.untrusted import read_json_object
from xplm.errors import CheckpointError, ConfigError
from xplm.models.families.config_json import read_config

IDS = list(range(3, 19))
MXFP4 = {"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}}
GPT_OSS = hf_config(
    model_type="gpt_oss",
    tie_word_embeddings=False,
    num_local_experts=3,
    num_experts_per_tok=2,
    sliding_window=8,
)
LEVELS = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], np.float32)
GATE_UP = "model.layers.1.mlp.experts.gate_up_proj"


def quantise(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Blocks, scales and the numbers that they stand for.   weight (E, in, out) float32"""
    rows = np.ascontiguousarray(np.matrix_transpose(weight))
    blocks = rows.reshape(*rows.shape[:-1], -1, 32)
    exponent = np.floor(np.log2(np.abs(blocks).max(-1, keepdims=True))).astype(np.int32) - 2
    power = np.ldexp(np.float32(1.0), exponent)
    nearest = np.abs(np.abs(blocks / power)[..., None] - LEVELS).argmin(-1)
    values = np.copysign(LEVELS[nearest], blocks) * power
    code = (nearest + 8 * np.signbit(blocks)).astype(np.uint8)
    packed = code[..., 0::2] | code[..., 1::2] << 4
    scales = (exponent[..., 0] + 127).astype(np.uint8)
    return packed, scales, np.matrix_transpose(values.reshape(rows.shape))


def weights() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The tensors of a directory, its experts as floats and quantised to the same floats."""
    ours = random_tensors(GPT_OSS)
    shapes = {name: x.shape for name, x in ours.items()}
    names, read = pack(read_config(GPT_OSS), shapes, lambda name, _: np.float32(0.2) * ours[name])
    plain = {name: np.ascontiguousarray(read(name, np.dtype(np.float32))) for name in names}
    quantised = dict(plain)
    for name in plain:
        if name.endswith("experts.gate_up_proj") or name.endswith("experts.down_proj"):
            del quantised[name]
            packed, scales, values = quantise(plain[name])
            quantised |= {f"{name}_blocks": packed, f"{name}_scales": scales}
            plain[name] = np.ascontiguousarray(values)
    return plain, quantised


@pytest.fixture
def directories(tmp_path: Path) -> tuple[Path, Path]:
    """One of floats, and one of blocks and scales."""
    plain, quantised = weights()
    return (
        write_directory(tmp_path / "plain", GPT_OSS, [plain]),
        write_directory(tmp_path / "quantised", GPT_OSS | MXFP4, [quantised]),
    )


def test_logits_are_those_of_the_dequantised_directory(directories: tuple[Path, Path]) -> None:
    plain, quantised = (xplm.load(path).logits(IDS) for path in directories)
    np.testing.assert_array_equal(quantised, plain)
    assert open_directory(directories[1]).matrix_kinds == ["MXFP4", "F32"]


def test_a_converted_model_is_plain(directories: tuple[Path, Path], tmp_path: Path) -> None:
    convert(directories[1], tmp_path / "new", "fp32")
    assert "quantization_config" not in read_json_object(tmp_path / "new" / "config.json")
    wanted = load_file(directories[0] / "model.safetensors")
    got = load_file(tmp_path / "new" / "model.safetensors")
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        np.testing.assert_array_equal(got[name], tensor)


def test_a_block_by_hand() -> None:
    # Codes 1 and 15, 0.5 and -6; scales of 2^-1 and 2^3.
    blocks = np.full((2, 16), 0xF1, np.uint8)
    values = dequantise(blocks, np.array([126, 130], np.uint8))
    np.testing.assert_array_equal(values, [0.25, -3.0] * 16 + [4.0, -48.0] * 16)


def test_the_smallest_and_the_largest_scale() -> None:
    blocks = np.full((2, 16), 0x71, np.uint8)
    values = dequantise(blocks, np.array([0, 254], np.uint8))
    np.testing.assert_array_equal(values[:2], [2.0**-128, 6.0 * 2.0**-127])
    np.testing.assert_array_equal(values[-2:], [2.0**126, np.inf])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks": np.zeros((3, 128, 2, 16), np.uint8)}, r"U8 \(3, 128, 2, 16\) with U8 \(3, 128, 1\)"),
        ({"blocks": np.zeros((3, 128, 1, 8), np.uint8)}, r"bytes \(\.\.\., R, G, 16\)"),
        ({"blocks": np.zeros((3, 128, 1, 16), np.int8)}, r"has I8 \(3, 128, 1, 16\)"),
        ({"scales": np.zeros((3, 128, 1), np.float32)}, r"with F32 \(3, 128, 1\)"),
        ({"scales": np.zeros((), np.uint8), "blocks": np.zeros(16, np.uint8)}, r"with U8 \(\)"),
        (
            {"scales": np.zeros((3, 96, 1), np.uint8), "blocks": np.zeros((3, 96, 1, 16), np.uint8)},
            r"gate_up_proj of shape \(3, 32, 96\) where \(3, 32, 128\) belongs",
        ),
        ({"scales": None}, r"missing: .*gate_proj.* unexpected: .*gate_up_proj_blocks"),
        ({"blocks": None}, r"missing: .*gate_proj.* unexpected: .*gate_up_proj_scales"),
        ({"": np.zeros((3, 32, 128), np.float32)}, r"holds .*gate_up_proj and .*gate_up_proj_blocks"),
        ({"scales": np.full((3, 128, 1), 255, np.uint8)}, r"gate_up_proj_scales of .* holds NaN"),
    ],
)  # fmt: skip
def test_malformed_pairs_are_refused(
    directories: tuple[Path, Path], change: dict[str, Any], message: str
) -> None:
    file = directories[1] / "model.safetensors"
    tensors = load_file(file)
    for end, tensor in change.items():
        name = f"{GATE_UP}_{end}" if end else GATE_UP
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=message):
        xplm.load(directories[1])


def test_blocks_that_config_json_does_not_announce_are_refused(tmp_path: Path) -> None:
    path = write_directory(tmp_path / "m", GPT_OSS, [weights()[1]])
    with pytest.raises(CheckpointError, match=r"unexpected: .*down_proj_blocks"):
        xplm.load(path)


@pytest.mark.parametrize(
    "hf",
    [
        GPT_OSS | {"quantization_config": {"quant_method": "fp8"}},
        GPT_OSS | {"quantization_config": {"quant_method": ["mxfp4"]}},
        GPT_OSS | {"quantization_config": "mxfp4"},
        GPT_OSS | {"compression_config": {"quant_method": "mxfp4"}},
        GPT_OSS | MXFP4 | {"compression_config": {"quant_method": "mxfp4"}},
        hf_config() | MXFP4,
    ],
)
def test_other_quantised_weights_are_refused(hf: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="weights must be plain floats"):
        read_config(hf)


def test_blocks_of_a_gguf_file_are_the_same_numbers_in_another_order():
    kind = GGMLQuantizationType.__members__.get("MXFP4")
    if kind is None:
        pytest.skip("this release of the gguf package has no MXFP4")
    rng = np.random.default_rng(4)
    codes = rng.integers(0, 16, (5, 32), np.uint8)
    scales = rng.integers(1, 254, (5, 1), np.uint8)
    pairs = codes[:, 0::2] | codes[:, 1::2] << 4  # neighbours in a byte
    halves = codes[:, :16] | codes[:, 16:] << 4  # value i and value i + 16
    packed = np.concatenate([scales, halves], axis=1)
    np.testing.assert_array_equal(dequantize(packed, kind), dequantise(pairs[:, None], scales))
