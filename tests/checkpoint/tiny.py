"""A tiny decoder to write to disk in every layout: 2 layers, 2 heads of 8, one key/value head, width 32."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import save_file

from xplm.checkpoint.gguf_config import gguf_metadata
from xplm.checkpoint.gguf_names import hugging_face_name, is_vector
from xplm.models.decoder import param_specs
from xplm.models.families.config_json import read_config
from xplm.models.families.gguf import GGUFLayout

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
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float32",
}

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.125, 1.5, 2.0],
    "long_factor": [1.0, 2.0, 5.0, 20.0],
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
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


def interleave(rows: np.ndarray, n_heads: int) -> np.ndarray:
    """What llama.cpp's converter does to the rows of q and k of a Llama."""
    halves = rows.reshape(n_heads, 2, rows.shape[0] // n_heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def by_head(array: np.ndarray, name: str, config: Mapping[str, Any]) -> np.ndarray:
    """What llama.cpp's converter makes of kv_b_proj: rows of each head, of keys transposed."""
    N, rank = config["qk_nope_head_dim"], config["kv_lora_rank"]
    heads = array.reshape(config["num_attention_heads"], N + config["v_head_dim"], rank)
    if "attn_k_b" in name:
        return np.ascontiguousarray(heads[:, :N].swapaxes(1, 2))
    return np.ascontiguousarray(heads[:, N:])


def gguf_tensor(
    name: str, array: np.ndarray, config: Mapping[str, Any], layout: GGUFLayout
) -> np.ndarray:
    """A Hugging Face tensor in the row order of a GGUF file, the weight of a norm as it multiplies."""
    if name.endswith("norm.weight"):
        return array + np.float32(layout.norm_offset)
    if not layout.has_interleaved_rows:
        return array
    if ".q_proj." in name:
        return interleave(array, config["num_attention_heads"])
    if ".k_proj." in name:
        return interleave(array, config["num_key_value_heads"])
    return array


def join_qkv(stored: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What llama.cpp's converter writes with --fuse-qkv."""
    joined = dict(stored)
    for name in [name for name in stored if ".attn_q." in name]:
        parts = [joined.pop(name.replace("attn_q", f"attn_{part}")) for part in "qkv"]
        joined[name.replace("attn_q", "attn_qkv")] = np.concatenate(parts)
    return joined


def add_keys(writer: gguf.GGUFWriter, keys: Mapping[str, Any]) -> None:
    """Keys of a file, each as the kind of its value."""
    add = {
        int: writer.add_uint32, float: writer.add_float32, str: writer.add_string,
        bool: writer.add_bool, list: writer.add_array,
    }  # fmt: skip
    for key, value in keys.items():
        add[type(value)](key, value)


def write_gguf(
    path: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    extra: Mapping[str, np.ndarray] | None = None,
    arch: str | None = None,
    *,
    is_joined: bool = False,
    has_vectors: bool = True,
    change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] = dict,
    **metadata: Any,
) -> Path:
    """A GGUF file, its matrices quantised.

    Args:
        path: the file.
        config: as in config.json.
        tensors: by Hugging Face name.
        kind: how matrices are stored; vectors stay F32.
        extra: further F32 tensors, by GGUF name.
        arch: the architecture; None for the first of the family's.
        is_joined: whether q, k and v of a layer are one tensor.
        has_vectors: whether matrices of one row are vectors, as llama.cpp's converter writes them.
        change: makes other tensors of those of the file, by GGUF name.
        metadata: further keys, "__" standing for ".".
    """
    model = gguf_metadata(read_config(config), arch)
    writer = gguf.GGUFWriter(path, model.metadata["general.architecture"])
    keys = {key: value for key, value in model.metadata.items() if key != "general.architecture"}
    for name in ("bos", "eos"):
        keys[f"tokenizer.ggml.{name}_token_id"] = config[f"{name}_token_id"]
    keys |= {key.replace("__", "."): value for key, value in metadata.items()}
    add_keys(writer, keys)

    cut = [n for n in model.tensors if n.endswith((".attn_k_b.weight", ".attn_v_b.weight"))]
    stored = {
        name: np.concatenate(
            [gguf_tensor(part, tensors[part], config, model.layout) for part in ours]
        )
        for name, ours in model.tensors.items()
    }
    stored |= {name: by_head(stored[name], name, config) for name in cut}
    if has_vectors:
        rows = [n for n in stored if is_vector(hugging_face_name(n, model.layout), model.layout)]
        stored |= {name: stored[name][0] for name in rows}
    stored = join_qkv(stored) if is_joined else stored
    for name, array in change(stored).items():
        if array.ndim == 1 or kind == gguf.GGMLQuantizationType.F32:
            writer.add_tensor(name, array)
        else:
            packed = gguf.quants.quantize(array, kind)
            writer.add_tensor(name, packed, raw_dtype=kind)
    for name, array in (model.rope_factors | dict(extra or {})).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
