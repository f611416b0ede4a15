"""A tiny decoder to write to disk in every layout: 2 layers, 2 heads of 8, one key/value head, width 32."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import save_file

from xplm.models.decoder import param_specs
from xplm.models.families.config_json import read_config

HF_CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float32",
}

GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def hf_config(**changes: Any) -> dict[str, Any]:
    return HF_CONFIG | changes


def random_tensors(config: Mapping[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Float32 tensors of a configuration, by Hugging Face name."""
    rng = np.random.default_rng(seed)
    specs = param_specs(read_config(config))
    return {name: rng.standard_normal(s.shape, np.float32) for name, s in specs.items()}


def write_directory(
    path: Path, config: Mapping[str, Any], shards: list[dict[str, np.ndarray]]
) -> Path:
    """A Hugging Face directory, with an index where there are several shards."""
    from xplm.checkpoint.files import write_json

    path.mkdir(parents=True, exist_ok=True)
    write_json(path / "config.json", dict(config))
    if len(shards) == 1:
        save_file(shards[0], path / "model.safetensors")
        return path
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(shard, path / name)
        weight_map |= dict.fromkeys(shard, name)
    write_json(path / "model.safetensors.index.json", {"weight_map": weight_map})
    return path


def gguf_name(name: str) -> str:
    """The name that llama.cpp's converter gives a Hugging Face tensor."""
    stem, _, suffix = name.rpartition(".")
    if stem.startswith("model.layers."):
        _, _, layer, inner = stem.split(".", 3)
        return f"blk.{layer}.{GGUF_NAMES[inner]}.{suffix}"
    return f"{GGUF_NAMES[stem]}.{suffix}"


def interleave(rows: np.ndarray, n_heads: int) -> np.ndarray:
    """What llama.cpp's converter does to the rows of q and k of a Llama."""
    halves = rows.reshape(n_heads, 2, rows.shape[0] // n_heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def gguf_tensor(name: str, array: np.ndarray, config: Mapping[str, Any], arch: str) -> np.ndarray:
    """A Hugging Face tensor in the row order of a GGUF file."""
    if arch == "qwen2":
        return array
    if ".q_proj." in name:
        return interleave(array, config["num_attention_heads"])
    if ".k_proj." in name:
        return interleave(array, config["num_key_value_heads"])
    return array


def write_gguf(
    path: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    extra: Mapping[str, np.ndarray] | None = None,
    arch: str | None = None,
    **metadata: Any,
) -> Path:
    """A GGUF file, its matrices quantised.

    Args:
        path: the file.
        config: as in config.json; Mistral's files are of the llama architecture.
        tensors: by Hugging Face name.
        kind: how matrices are stored; vectors stay F32.
        extra: further F32 tensors, by GGUF name.
        arch: the architecture; None for that of the configuration.
        metadata: further keys below the architecture's name, "__" standing for ".".
    """
    arch = arch or ("qwen2" if config["model_type"] == "qwen2" else "llama")
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    for key, value in metadata.items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add[type(value)](f"{arch}.{key.replace('__', '.')}", value)

    for name, array in tensors.items():
        array = gguf_tensor(name, array, config, arch)
        if array.ndim == 1 or kind == gguf.GGMLQuantizationType.F32:
            writer.add_tensor(gguf_name(name), array)
        else:
            packed = gguf.quants.quantize(array, kind)
            writer.add_tensor(gguf_name(name), packed, raw_dtype=kind)
    for name, array in (extra or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
