"""Tiny models of five families, written as Hugging Face directories, and what they compute.

Every number is random, biases and norms among them, so that none can be left out unnoticed.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from bits.arrays import Recorder

Shapes = dict[str, tuple[int, ...]]

V = 256
"""The bytes."""
CONTEXT = 1024
"""Above a prompt of several chunks."""

TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant: "

BASE: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": 64,
    "intermediate_size": 88,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}
DYNAMIC = {"rope_type": "dynamic", "factor": 16.0}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "rope_theta": 10000.0, "rms_norm_eps": 1e-5},
    "llama-dynamic": {
        "model_type": "llama",
        "rope_scaling": DYNAMIC,
        "max_position_embeddings": 64,
        "attention_bias": True,
        "mlp_bias": True,
    },
    "mistral": {"model_type": "mistral", "sliding_window": 9, "head_dim": 12},
    "qwen2": {
        "model_type": "qwen2",
        "rope_scaling": YARN,
        "use_sliding_window": True,
        "sliding_window": 9,
        "max_window_layers": 1,
        "tie_word_embeddings": True,
    },
    "gpt2": {
        "model_type": "gpt2",
        "n_embd": 64,
        "n_inner": 88,
        "n_layer": 3,
        "n_head": 4,
        "n_positions": CONTEXT,
        "scale_attn_by_inverse_layer_idx": True,
    },
    "starcoder2": {
        "model_type": "starcoder2",
        "use_bias": True,
        "sliding_window": None,
        "tie_word_embeddings": True,
    },
}
"""By name: what is added to BASE, of which gpt2 takes the first and the last keys alone."""


def config_of(name: str) -> dict[str, Any]:
    """The model's config.json."""
    own = CONFIGS[name]
    if own["model_type"] == "gpt2":
        return own | {key: BASE[key] for key in ("vocab_size", "bos_token_id", "eos_token_id")}
    return BASE | own


def shapes_of(config: dict[str, Any]) -> Shapes:
    """The tensors of a model's file."""
    if config["model_type"] == "gpt2":
        return _gpt2_shapes(config)
    family, C, F = config["model_type"], config["hidden_size"], config["intermediate_size"]
    H, K = config["num_attention_heads"], config["num_key_value_heads"]
    D = config.get("head_dim", C // H)
    all_biased = family == "starcoder2"
    attention_bias = all_biased or family == "qwen2" or config.get("attention_bias", False)
    output_bias = all_biased or config.get("attention_bias", False)
    mlp_bias = all_biased or config.get("mlp_bias", False)
    shapes: Shapes = {"model.embed_tokens.weight": (V, C)}

    def linear(name: str, outputs: int, inputs: int, has_bias: bool) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs)
        if has_bias:
            shapes[f"{name}.bias"] = (outputs,)

    def norm(name: str) -> None:
        shapes[f"{name}.weight"] = (C,)
        if family == "starcoder2":
            shapes[f"{name}.bias"] = (C,)

    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        norm(f"{layer}.input_layernorm")
        norm(f"{layer}.post_attention_layernorm")
        linear(f"{layer}.self_attn.q_proj", H * D, C, attention_bias)
        linear(f"{layer}.self_attn.k_proj", K * D, C, attention_bias)
        linear(f"{layer}.self_attn.v_proj", K * D, C, attention_bias)
        linear(f"{layer}.self_attn.o_proj", C, H * D, output_bias)
        if family == "starcoder2":
            linear(f"{layer}.mlp.c_fc", F, C, mlp_bias)
            linear(f"{layer}.mlp.c_proj", C, F, mlp_bias)
        else:
            linear(f"{layer}.mlp.gate_proj", F, C, mlp_bias)
            linear(f"{layer}.mlp.up_proj", F, C, mlp_bias)
            linear(f"{layer}.mlp.down_proj", C, F, mlp_bias)
    norm("model.norm")
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (V, C)
    return shapes


def _gpt2_shapes(config: dict[str, Any]) -> Shapes:
    """Matrices are stored as (inputs, outputs)."""
    C, F = config["n_embd"], config["n_inner"]
    shapes: Shapes = {"transformer.wte.weight": (V, C), "transformer.wpe.weight": (CONTEXT, C)}
    matrices = {
        "attn.c_attn": (C, 3 * C),
        "attn.c_proj": (C, C),
        "mlp.c_fc": (C, F),
        "mlp.c_proj": (F, C),
    }
    norms = ["transformer.ln_f"]
    for i in range(config["n_layer"]):
        layer = f"transformer.h.{i}"
        norms += [f"{layer}.ln_1", f"{layer}.ln_2"]
        for name, shape in matrices.items():
            shapes |= {f"{layer}.{name}.weight": shape, f"{layer}.{name}.bias": shape[1:]}
    for name in norms:
        shapes |= {f"{name}.weight": (C,), f"{name}.bias": (C,)}
    return shapes


def write_model(name: str, directory: Path) -> Path:
    """Write a model's directory, of one that CONFIGS names; its name seeds the weights."""
    directory.mkdir(parents=True)
    config = config_of(name)
    rng = np.random.default_rng(sorted(CONFIGS).index(name))
    tensors = {}
    for tensor, shape in shapes_of(config).items():
        is_scale = len(shape) == 1 and tensor.endswith(".weight")
        tensors[tensor] = (is_scale + 0.2 * rng.standard_normal(shape)).astype(np.float32)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return directory


def record_model(record: Recorder, group: str, lm: Any) -> None:
    """What a model computes, asked through its public methods."""
    to_host = lm.rt.backend.to_host
    ids = np.random.default_rng(7).integers(0, V, 600).tolist()
    short, other, long = ids[:40], ids[40:51], ids

    record.add(f"{group}/logits", lm.logits(short))
    loss, gradients = lm.loss_and_grads(ids[:70])
    record.add(f"{group}/loss", loss)
    for name, gradient in gradients.items():
        record.add(f"{group}/gradient of {name}", to_host(gradient))

    replies = {
        "alone": [lm.generate(short, max_new_tokens=32)],
        "batch": lm.generate([short, other], max_new_tokens=32),
        "chunks": [lm.generate(long, max_new_tokens=8)],
        "beams": [lm.generate(other, max_new_tokens=8, num_beams=3)],
        "chat": conversation(lm),
    }
    for case, generations in replies.items():
        for i, generation in enumerate(generations):
            record.add(f"{group}/{case} {i} tokens", np.asarray(generation.token_ids, np.int64))
            record.add(f"{group}/{case} {i} logprobs", generation.logprobs)


def conversation(lm: Any) -> list[Any]:
    """Two turns, the second taken back, and another: a cache that grows, shrinks and grows."""
    chat = lm.chat(system="Be brief.")
    replies = [chat.send(text, max_new_tokens=6) for text in ("What is rain?", "And snow?")]
    chat.rollback(1)
    return [*replies, chat.send("And hail?", max_new_tokens=6)]
