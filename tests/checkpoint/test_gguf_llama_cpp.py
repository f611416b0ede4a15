"""GGUF files that llama.cpp reads to the same logits, and the Hugging Face directory of the same weights."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize, quantize

import xplm
from tests.checkpoint.tiny import (
    LLAMA3,
    LONGROPE,
    YARN,
    hf_config,
    random_tensors,
    write_directory,
    write_gguf,
)
from xplm.backend import load_backend
from xplm.checkpoint.gguf import open_gguf
from xplm.checkpoint.gguf_config import get_layout
from xplm.checkpoint.layouts import pack
from xplm.checkpoint.load import load_params
from xplm.kernels.gelu import gelu_fwd
from xplm.models.decoder import forward
from xplm.models.families.config_json import read_config
from xplm.runtime import make_runtime

IDS = list(range(3, 43))
SAME = 1e-5  # logits of size 5 in float32, through two layers
LONG = {"model_type": "phi3", "rope_scaling": LONGROPE, "max_position_embeddings": 512}
SILU: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama, linear": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "llama, yarn": {"rope_scaling": YARN},
    "llama, yarn of a temperature": {"rope_scaling": YARN | {"attention_factor": 1.5}},
    "llama3": {"rope_scaling": LLAMA3, "rope_theta": 500000.0},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3"},
    "smollm3": {"model_type": "smollm3", "num_hidden_layers": 4},
    "seed_oss": {"model_type": "seed_oss", "tie_word_embeddings": False},
    "ernie4_5": {"model_type": "ernie4_5"},
    "arcee": {"model_type": "arcee", "tie_word_embeddings": False},
    "stablelm": {"model_type": "stablelm", "tie_word_embeddings": False, "use_qkv_bias": True},
    "stablelm, parallel, norms of q and k": {
        "model_type": "stablelm",
        "tie_word_embeddings": False,
        "use_parallel_residual": True,
        "qk_layernorm": True,
    },
    "phi3": {"model_type": "phi3", "tie_word_embeddings": False},
    "phi3, longrope, short": LONG | {"original_max_position_embeddings": 256},
    "phi3, longrope, long": LONG | {"original_max_position_embeddings": 16},
    "glm4": {"model_type": "glm4", "tie_word_embeddings": False},
    "exaone4": {"model_type": "exaone4", "sliding_window": None},
    "olmo2": {"model_type": "olmo2", "tie_word_embeddings": False},
    "olmo3": {
        "model_type": "olmo3",
        "num_hidden_layers": 4,
        "sliding_window": 16,
        "rope_theta": 500_000.0,  # the sliding layers'
        "rope_scaling": YARN,
        "tie_word_embeddings": False,
    },
    "cohere2": {"model_type": "cohere2", "num_hidden_layers": 4, "sliding_window": 16},
    "qwen3, untied, wide heads": {
        "model_type": "qwen3",
        "head_dim": 16,
        "tie_word_embeddings": False,
    },
    "granite": {
        "model_type": "granite",
        "attention_multiplier": 0.25,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.6,
        "logits_scaling": 4.0,
    },
    "cohere": {"model_type": "cohere", "logit_scale": 0.5},
    "nemotron": {"model_type": "nemotron", "mlp_bias": True, "attention_bias": True},
}
GELU: dict[str, dict[str, Any]] = {
    "phi": {"model_type": "phi", "tie_word_embeddings": False},
    "phi, tied": {"model_type": "phi"},
    "phi, a quarter of a head": {"model_type": "phi", "partial_rotary_factor": 0.25},
    "gemma": {"model_type": "gemma", "head_dim": 8},
    "gemma2": {
        "model_type": "gemma2",
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window": 16,
        "attn_logit_softcapping": 5.0,
    },
    "gemma3_text": {
        "model_type": "gemma3_text",
        "num_hidden_layers": 6,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window": 16,
        "rope_scaling": {"rope_type": "linear", "factor": 4.0},
    },
    "falcon": {"model_type": "falcon", "tie_word_embeddings": True},
    "falcon, new": {
        "model_type": "falcon",
        "tie_word_embeddings": False,
        "new_decoder_architecture": True,
        "num_kv_heads": 2,
    },
    "gpt2": {"model_type": "gpt2", "n_inner": 64},
    "starcoder2": {"model_type": "starcoder2"},
    "gpt_neox": {"model_type": "gpt_neox", "tie_word_embeddings": False},
    "gpt_neox, serial": {
        "model_type": "gpt_neox",
        "tie_word_embeddings": False,
        "use_parallel_residual": False,
    },
}
FEW = {"num_local_experts": 4, "num_experts_per_tok": 2, "tie_word_embeddings": False}
FEW_QWEN = FEW | {"num_local_experts": None, "num_experts": 4, "moe_intermediate_size": 24}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 12,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "rms_norm_eps": 1e-6,  # as in the norms of latents, which have no key of their own in a file
    "first_k_dense_replace": 1,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
    "n_shared_experts": 2,
    "routed_scaling_factor": 2.5,
    "tie_word_embeddings": False,
    "rope_scaling": YARN | {"mscale": 0.7, "mscale_all_dim": 0.7},
}
SCORED = {
    key: value
    for key, value in LATENT.items()
    if not key.endswith(("_rank", "_dim")) and key not in ("rope_scaling", "num_key_value_heads")
}
ROUTED: dict[str, dict[str, Any]] = {
    "mixtral": {"model_type": "mixtral"} | FEW,
    "qwen3_moe": {"model_type": "qwen3_moe", "norm_topk_prob": True} | FEW_QWEN,
    "qwen2_moe": {"model_type": "qwen2_moe", "shared_expert_intermediate_size": 20} | FEW_QWEN,
    "granitemoe": SILU["granite"] | {"model_type": "granitemoe"} | FEW,
    "olmoe": {"model_type": "olmoe", "num_key_value_heads": 4}
    | FEW_QWEN
    | {"moe_intermediate_size": None},
    "gpt_oss": {"model_type": "gpt_oss", "sliding_window": 16, "rope_scaling": YARN} | FEW,
    "glm4_moe": {"model_type": "glm4_moe", "use_qk_norm": True, "attention_bias": True} | SCORED,
    "deepseek_v2": {"model_type": "deepseek_v2"} | LATENT,
    "deepseek_v3": {"model_type": "deepseek_v3"} | LATENT | {"n_group": 4, "topk_group": 2},
}
QUICK = ("gpt_oss", "glm4_moe", "deepseek_v3")
"""Routed models that each run compares with llama.cpp."""
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write(changes, **options of write_gguf): a GGUF file."""

    def file(changes: dict[str, Any], **options: Any) -> Path:
        config = hf_config(**changes)
        return write_gguf(
            tmp_path / "m.gguf",
            config,
            tensors_of(config),
            tokenizer__ggml__model="no_vocab",
            **options,
        )

    return file


def tensors_of(config: dict[str, Any]) -> dict[str, np.ndarray]:
    """Weights small enough for two layers, norms that multiply by about 1."""
    one = np.float32(1.0 - get_layout(config["model_type"]).norm_offset)
    return {
        name: np.float32(0.2) * array + one * ("norm" in name and name.endswith("weight"))
        for name, array in random_tensors(config).items()
    }


def llama_cpp_logits(path: Path) -> np.ndarray:
    """(T, V) float32, with its cache in float32 too."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is the reference here")
    model = llama_cpp.Llama(
        str(path), n_ctx=256, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False,
        type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32,
    )  # fmt: skip
    model.eval(IDS)
    logits = np.array(model.scores[: len(IDS)])
    model.close()
    return logits


@pytest.mark.parametrize("is_joined", [False, True])
@pytest.mark.parametrize("changes", SILU.values(), ids=SILU)
def test_logits_are_those_of_llama_cpp(
    write: Write, changes: dict[str, Any], is_joined: bool
) -> None:
    path = write(changes, is_joined=is_joined)
    np.testing.assert_allclose(
        xplm.load(path).logits(IDS), llama_cpp_logits(path), rtol=0.0, atol=SAME
    )


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(changes, marks=() if name in QUICK else pytest.mark.nightly, id=name)
        for name, changes in ROUTED.items()
    ],
)
def test_logits_of_routed_experts_are_those_of_llama_cpp(
    write: Write, changes: dict[str, Any]
) -> None:
    path = write(changes)
    np.testing.assert_allclose(
        xplm.load(path).logits(IDS), llama_cpp_logits(path), rtol=0.0, atol=SAME
    )


def table_gelu(x: Any) -> tuple[Any, Any]:
    """That of llama.cpp on the CPU: float16 results looked up by float16 arguments."""
    y, saved = gelu_fwd(x.astype(np.float16).astype(np.float32))
    return y.astype(np.float16).astype(np.float32), saved


@pytest.mark.parametrize("is_joined", [False, True])
@pytest.mark.parametrize("changes", GELU.values(), ids=GELU)
def test_logits_are_those_of_llama_cpp_but_for_its_gelu(
    write: Write, changes: dict[str, Any], is_joined: bool
) -> None:
    path = write(changes, is_joined=is_joined)
    theirs = llama_cpp_logits(path)

    checkpoint = open_gguf(path)
    backend = load_backend("numpy")
    rt = make_runtime(
        replace(backend, kernels={"gelu_fwd": table_gelu, "gelu_erf_fwd": table_gelu}), "fp32"
    )
    params = load_params(checkpoint, rt)
    ours = forward(rt, checkpoint.config, params, np.array([IDS]))[0]
    exact = xplm.load(path).logits(IDS)

    # The table puts every entry wrong, by 0.4 of its step of 2^-11. Noise of 1e-6 sends one argument in 500 to the
    # next entry, a whole step away: at one in 100, and independent, it is a quarter of that.
    assert rms(ours - theirs) <= rms(ours - exact) / 4


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


@pytest.mark.parametrize("changes", (SILU | GELU | ROUTED).values(), ids=SILU | GELU | ROUTED)
def test_logits_are_those_of_the_directory(
    write: Write, tmp_path: Path, changes: dict[str, Any]
) -> None:
    hf = hf_config(**changes)
    tensors = tensors_of(hf)
    shapes, read = pack(
        read_config(hf), {n: t.shape for n, t in tensors.items()}, lambda name, _: tensors[name]
    )
    packed = {name: np.ascontiguousarray(read(name, np.dtype(np.float32))) for name in shapes}
    directory = write_directory(tmp_path / "m", hf, [packed])
    np.testing.assert_allclose(
        xplm.load(write(changes)).logits(IDS),
        xplm.load(directory).logits(IDS),
        rtol=0.0,
        atol=SAME,
    )


def in_one(stored: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows of keys and values in one tensor, as older files have them."""
    old = dict(stored)
    for name in [name for name in stored if name.endswith(".attn_k_b.weight")]:
        keys, values = old.pop(name), old.pop(name.replace("attn_k_b", "attn_v_b"))
        heads = np.concatenate([keys.swapaxes(1, 2), values], axis=1)
        old[name.replace("attn_k_b", "attn_kv_b")] = heads.reshape(-1, heads.shape[-1])
    return old


@pytest.mark.nightly
def test_an_older_file_of_latent_attention(write: Write) -> None:
    sizes = {"head_count_kv": 4, "key_length": 12, "value_length": 6}
    sizes |= {"key_length_mla": 0, "value_length_mla": 0}
    path = write(
        ROUTED["deepseek_v2"],
        change=in_one,
        **{f"deepseek2__attention__{key}": size for key, size in sizes.items()},
    )
    logits = xplm.load(path).logits(IDS)
    np.testing.assert_allclose(logits, llama_cpp_logits(path), rtol=0.0, atol=SAME)
    newer = xplm.load(write(ROUTED["deepseek_v2"])).logits(IDS)
    np.testing.assert_array_equal(logits, newer)


def test_blocks_that_predict_further_tokens_are_left_out(
    write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    def with_another(stored: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        last = {n: x for n, x in stored.items() if n.startswith("blk.1.")}
        more = {n.replace("blk.1.", "blk.2."): x for n, x in last.items()}
        norms = {f"blk.2.nextn.{part}norm.weight": np.ones(32, np.float32) for part in "eh"}
        return (
            stored | more | norms | {"blk.2.nextn.eh_proj.weight": np.zeros((32, 64), np.float32)}
        )

    changes = ROUTED["deepseek_v3"]
    keys = {"deepseek2__block_count": 3, "deepseek2__nextn_predict_layers": 1}
    without = xplm.load(write(changes)).logits(IDS)
    path = write(changes, change=with_another, **keys)
    np.testing.assert_array_equal(xplm.load(path).logits(IDS), without)
    assert "predict the token after the next are left out" in caplog.text
    np.testing.assert_allclose(without, llama_cpp_logits(path), rtol=0.0, atol=SAME)


def test_the_gate_of_a_shared_expert_is_a_vector_or_a_row(tmp_path: Path) -> None:
    hf = hf_config(**ROUTED["qwen2_moe"])
    tensors = tensors_of(hf)
    gate = "model.layers.1.mlp.shared_expert_gate.weight"
    paths = {1: tmp_path / "vector.gguf", 2: tmp_path / "row.gguf"}
    for ndim, path in paths.items():
        write_gguf(path, hf, tensors, has_vectors=ndim == 1)
        stored = {t.name: t.data for t in GGUFReader(path).tensors}
        assert stored["blk.1.ffn_gate_inp_shexp.weight"].ndim == ndim
        np.testing.assert_array_equal(
            open_gguf(path).read(gate, np.dtype(np.float32)), tensors[gate]
        )


@pytest.mark.parametrize(("name", "kind"), [("mixtral", "Q8_0"), ("gpt_oss", "MXFP4")])
def test_stacked_experts_may_be_quantised(tmp_path: Path, name: str, kind: str) -> None:
    if kind not in GGMLQuantizationType.__members__:
        pytest.skip(f"this release of the gguf package has no {kind}")
    hf = hf_config(**ROUTED[name])
    tensors, number = tensors_of(hf), GGMLQuantizationType[kind]
    checkpoint = open_gguf(write_gguf(tmp_path / "m.gguf", hf, tensors, number))
    for part in ("gate", "up", "down"):
        name = f"model.layers.1.mlp.experts.{part}_proj.weight"
        assert checkpoint.tensors[name].kind == kind
        wanted = dequantize(quantize(tensors[name], number), number)
        np.testing.assert_array_equal(checkpoint.read(name, np.dtype(np.float32)), wanted)
