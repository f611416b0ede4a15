"""Make tiny models with random weights, one for each family and flag that xplm has, as transformers saves them.

    python scripts/make_tiny_models.py DIRECTORY [NAME ...]

writes one Hugging Face directory a model. They are what xplm is compared with transformers on. Needs torch and
transformers: pip install ".[reference]".
"""

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

BASE: dict[str, Any] = {
    "vocab_size": 256,  # one token a byte
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SHORT = {"max_position_embeddings": 16}  # trained on less than a test's prompt
LONGER = {"max_position_embeddings": 128}
FAR = {"max_position_embeddings": 1280}
NEAR = {"max_position_embeddings": 32}  # dynamic RoPE is stretched from there
NARROW = {"head_dim": 8}  # qwen3's own default is 128, gemma's 256
GRANITE = {
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.25,
    "residual_multiplier": 0.6,
    "logits_scaling": 4.0,
}


@dataclass(frozen=True)
class Recipe:
    """One model to make."""

    config: dict[str, Any] = field(default_factory=dict)  # changes to BASE
    rope: dict[str, Any] = field(default_factory=dict)  # rope_parameters
    model_type: str = "llama"
    dtype: str = "float32"  # torch's name, of the file
    max_shard_size: str = "5GB"
    old_spelling: bool = False  # config.json with rope_theta and rope_scaling
    embedding_name: str | None = None  # what the one tied tensor is called in the file


def yarn(trained: int = 16, **changes: Any) -> dict[str, Any]:
    """A YaRN that was trained on so many positions and stretched fourfold."""
    return {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": trained,
    } | changes


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
FAR_LLAMA3 = LLAMA3 | {"factor": 40.0, "original_max_position_embeddings": 32, "rope_theta": 500.0}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.1, 1.5, 2.0],
    "long_factor": [1.0, 2.0, 5.0, 20.0],
    "original_max_position_embeddings": 32,
}
UNPADDED = {"pad_token_id": None}  # for families whose own is above the vocabulary
NOT_ROTATED_FIRST = {"no_rope_layers": [0, 1]}
WINDOW = {"use_sliding_window": True, "sliding_window": 6}
FEW_EXPERTS = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 20}
FEW_OLMOE = {"num_experts": 8, "num_experts_per_tok": 3}
FEW_OSS = {"num_local_experts": 8, "num_experts_per_tok": 3, "sliding_window": 16}
SCORED_EXPERTS = {"n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 20}
WIDE_WINDOW = {"use_sliding_window": True, "sliding_window": 16}

LATENT = UNPADDED | {
    "num_key_value_heads": 4,
    "q_lora_rank": 12,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "first_k_dense_replace": 2,  # all layers
}

RECIPES = {
    "llama-gqa": Recipe(),
    "llama-mha": Recipe({"num_key_value_heads": 4}),
    "llama-mqa": Recipe({"num_key_value_heads": 1}),
    "llama-head-dim": Recipe({"head_dim": 12}),
    "llama-attention-bias": Recipe({"attention_bias": True}),
    "llama-mlp-bias": Recipe({"mlp_bias": True}),
    "llama-gelu": Recipe({"hidden_act": "gelu_pytorch_tanh"}),
    "llama-tied": Recipe({"tie_word_embeddings": True}),
    "llama-tied-as-head": Recipe({"tie_word_embeddings": True}, embedding_name="lm_head.weight"),
    "llama-theta": Recipe(rope={"rope_type": "default", "rope_theta": 500.0}),
    "llama-theta-old": Recipe(
        rope={"rope_type": "default", "rope_theta": 500.0}, old_spelling=True
    ),
    "llama-linear": Recipe(rope={"rope_type": "linear", "factor": 4.0}),
    "llama-linear-old": Recipe(rope={"rope_type": "linear", "factor": 4.0}, old_spelling=True),
    "llama-dynamic": Recipe(SHORT, {"rope_type": "dynamic", "factor": 4.0}),
    "llama-dynamic-old": Recipe(SHORT, {"rope_type": "dynamic", "factor": 4.0}, old_spelling=True),
    "llama-llama3": Recipe(rope=LLAMA3),
    "llama-llama3-old": Recipe(rope=LLAMA3 | {"rope_theta": 500.0}, old_spelling=True),
    "llama-yarn": Recipe(rope=yarn()),
    "llama-yarn-old": Recipe(rope=yarn(), old_spelling=True),
    "llama-yarn-length-outside": Recipe({"original_max_position_embeddings": 32}, yarn()),
    "llama-yarn-mscale": Recipe(rope=yarn(mscale=1.0, mscale_all_dim=0.5)),
    "llama-yarn-attention-factor": Recipe(rope=yarn(attention_factor=1.3)),
    "llama-yarn-untruncated": Recipe(rope=yarn(truncate=False, beta_fast=8.0, beta_slow=0.5)),
    "llama-shards": Recipe(max_shard_size="20KB"),
    "llama-float16": Recipe(dtype="float16"),
    "llama-bfloat16-shards": Recipe(dtype="bfloat16", max_shard_size="20KB"),
    "llama-longrope": Recipe(LONGER, LONGROPE),
    "llama-longrope-old": Recipe(LONGER, LONGROPE | {"factor": 3.0}, old_spelling=True),
    "llama-longrope-attention-factor": Recipe(LONGER, LONGROPE | {"attention_factor": 1.3}),
    "mistral": Recipe({"sliding_window": None}, model_type="mistral"),
    "mistral-window": Recipe({"sliding_window": 6}, model_type="mistral"),
    "mistral-head-dim": Recipe({"sliding_window": 6, "head_dim": 12}, model_type="mistral"),
    "qwen2": Recipe(model_type="qwen2"),
    "qwen2-tied": Recipe({"tie_word_embeddings": True}, model_type="qwen2"),
    "qwen2-window": Recipe(WINDOW | {"max_window_layers": 1}, model_type="qwen2"),
    "qwen2-window-everywhere": Recipe(WINDOW | {"max_window_layers": 0}, model_type="qwen2"),
    "qwen2-layer-types": Recipe(
        WINDOW | {"layer_types": ["sliding_attention", "full_attention"]}, model_type="qwen2"
    ),
    "qwen2-yarn-old": Recipe(rope=yarn(), model_type="qwen2", old_spelling=True),
    "qwen3": Recipe(LONGER | {"head_dim": 12}, model_type="qwen3"),
    "qwen3-tied-bias": Recipe(
        LONGER | NARROW | {"attention_bias": True, "tie_word_embeddings": True},
        model_type="qwen3",
    ),
    "qwen3-window": Recipe(
        LONGER | NARROW | WIDE_WINDOW | {"layer_types": ["full_attention", "sliding_attention"]},
        model_type="qwen3",
    ),
    "qwen3-yarn-old": Recipe(LONGER | NARROW, rope=yarn(32), model_type="qwen3", old_spelling=True),
    "qwen3-far": Recipe(FAR | NARROW, model_type="qwen3"),
    "qwen3-far-linear": Recipe(FAR | NARROW, {"rope_type": "linear", "factor": 40.0}, "qwen3"),
    "qwen3-far-dynamic": Recipe(NEAR | NARROW, {"rope_type": "dynamic", "factor": 40.0}, "qwen3"),
    "qwen3-far-llama3": Recipe(FAR | NARROW, FAR_LLAMA3, "qwen3"),
    "qwen3-far-yarn": Recipe(FAR | NARROW, yarn(32, factor=40.0), "qwen3"),
    "qwen3-far-longrope": Recipe(FAR | NARROW, LONGROPE, "qwen3"),
    "phi": Recipe(LONGER, model_type="phi"),
    "phi-tied": Recipe(LONGER | {"tie_word_embeddings": True}, model_type="phi"),
    "phi-qk-norm": Recipe(
        LONGER | {"qk_layernorm": True, "num_key_value_heads": 4, "partial_rotary_factor": 0.75},
        model_type="phi",
    ),
    "phi-linear-old": Recipe(
        LONGER, rope={"rope_type": "linear", "factor": 4.0}, model_type="phi", old_spelling=True
    ),
    "phi-far": Recipe(FAR, model_type="phi"),
    "phi-far-linear": Recipe(FAR, {"rope_type": "linear", "factor": 40.0}, "phi"),
    "phi-far-dynamic": Recipe(NEAR, {"rope_type": "dynamic", "factor": 40.0}, "phi"),
    "phi-far-llama3": Recipe(FAR, FAR_LLAMA3, "phi"),
    "phi-far-yarn": Recipe(FAR, yarn(32, factor=40.0), "phi"),
    "phi-far-longrope": Recipe(
        FAR, LONGROPE | {"short_factor": [1.0, 1.5], "long_factor": [1.0, 20.0]}, "phi"
    ),
    "mixtral": Recipe(LONGER, model_type="mixtral"),
    "mixtral-window": Recipe(
        LONGER | {"sliding_window": 16, "num_local_experts": 5, "num_experts_per_tok": 3},
        model_type="mixtral",
    ),
    "qwen3_moe": Recipe(LONGER | NARROW | FEW_EXPERTS, model_type="qwen3_moe"),
    "qwen3_moe-dense-layers": Recipe(
        LONGER
        | NARROW
        | FEW_EXPERTS
        | {"num_hidden_layers": 4, "mlp_only_layers": [1], "decoder_sparse_step": 2}
        | {"norm_topk_prob": True, "attention_bias": True},
        model_type="qwen3_moe",
    ),
    "qwen3_moe-window": Recipe(LONGER | NARROW | FEW_EXPERTS | WIDE_WINDOW, model_type="qwen3_moe"),
    "qwen2_moe": Recipe(
        LONGER | FEW_EXPERTS | {"shared_expert_intermediate_size": 20}, model_type="qwen2_moe"
    ),
    "qwen2_moe-window": Recipe(
        LONGER
        | FEW_EXPERTS
        | WIDE_WINDOW
        | {"shared_expert_intermediate_size": 20, "norm_topk_prob": True, "mlp_only_layers": [0]},
        model_type="qwen2_moe",
    ),
    "glm4_moe": Recipe(LONGER | SCORED_EXPERTS, model_type="glm4_moe"),
    "glm4_moe-groups": Recipe(
        LONGER
        | SCORED_EXPERTS
        | {"n_group": 4, "topk_group": 2, "n_shared_experts": 2, "first_k_dense_replace": 0}
        | {"routed_scaling_factor": 2.5, "use_qk_norm": True, "attention_bias": True},
        model_type="glm4_moe",
    ),
    "olmoe": Recipe(LONGER | UNPADDED | FEW_OLMOE, model_type="olmoe"),
    "olmoe-clip": Recipe(
        LONGER
        | UNPADDED
        | FEW_OLMOE
        | {"clip_qkv": 0.5, "norm_topk_prob": True, "attention_bias": True},
        model_type="olmoe",
    ),
    "granitemoe": Recipe(LONGER | GRANITE, model_type="granitemoe"),
    "gpt_oss": Recipe(LONGER | NARROW | FEW_OSS, model_type="gpt_oss"),
    "gpt_oss-clamped": Recipe(
        LONGER
        | NARROW
        | FEW_OSS
        | {"swiglu_limit": 0.5, "swiglu_alpha": 1.5, "attention_bias": False}
        | {"layer_types": ["full_attention", "sliding_attention"]},
        model_type="gpt_oss",
    ),
    "gpt_oss-far-yarn": Recipe(
        FAR | NARROW | FEW_OSS, yarn(32, factor=40.0, truncate=False), "gpt_oss"
    ),
    "gpt2": Recipe({"n_inner": 48}, model_type="gpt2"),
    "gpt2-wide": Recipe(model_type="gpt2"),  # n_inner left out: 4 times the width
    "gpt2-scaled-by-layer": Recipe({"scale_attn_by_inverse_layer_idx": True}, model_type="gpt2"),
    "gpt2-unscaled": Recipe({"scale_attn_weights": False}, model_type="gpt2"),
    "gpt2-scaled-by-layer-alone": Recipe(
        {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True}, model_type="gpt2"
    ),
    "starcoder2": Recipe({"sliding_window": None}, model_type="starcoder2"),
    "starcoder2-window": Recipe({"sliding_window": 6}, model_type="starcoder2"),
    "starcoder2-no-bias": Recipe({"use_bias": False}, model_type="starcoder2"),
    "gpt2-relu": Recipe({"activation_function": "relu"}, model_type="gpt2"),
    "starcoder2-gelu": Recipe({"hidden_act": "gelu"}, model_type="starcoder2"),
    "arcee": Recipe(LONGER, model_type="arcee"),
    "arcee-biases": Recipe(
        LONGER | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
        yarn(32),
        "arcee",
    ),
    "opt": Recipe(LONGER | {"ffn_dim": 48}, model_type="opt"),
    "opt-no-bias": Recipe(
        LONGER | {"enable_bias": False, "layer_norm_elementwise_affine": False}, model_type="opt"
    ),
    "gpt_neox": Recipe(LONGER, model_type="gpt_neox"),
    "gpt_neox-serial": Recipe(
        LONGER | {"use_parallel_residual": False, "attention_bias": False},
        {"rope_type": "linear", "factor": 4.0, "partial_rotary_factor": 0.5},
        "gpt_neox",
    ),
    "falcon": Recipe(LONGER | {"multi_query": True}, model_type="falcon"),
    "falcon-new": Recipe(
        LONGER | {"new_decoder_architecture": True, "num_kv_heads": 2, "bias": True},
        model_type="falcon",
    ),
    "falcon-new-one-norm": Recipe(
        LONGER
        | {"new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1},
        model_type="falcon",
    ),
    "falcon-serial": Recipe(
        LONGER | {"multi_query": False, "parallel_attn": False, "tie_word_embeddings": False},
        model_type="falcon",
    ),
    "stablelm": Recipe(LONGER, model_type="stablelm"),
    "stablelm-parallel": Recipe(
        LONGER | {"use_parallel_residual": True, "use_qkv_bias": True},
        {"rope_type": "default", "partial_rotary_factor": 0.5},
        "stablelm",
    ),
    "stablelm-qk-norm": Recipe(LONGER | {"qk_layernorm": True}, model_type="stablelm"),
    "smollm3": Recipe(LONGER | UNPADDED | {"num_hidden_layers": 4}, model_type="smollm3"),
    "smollm3-window": Recipe(
        LONGER | UNPADDED | WIDE_WINDOW | NOT_ROTATED_FIRST | {"tie_word_embeddings": False},
        model_type="smollm3",
    ),
    "smollm3-bias-yarn-old": Recipe(
        LONGER | UNPADDED | {"no_rope_layer_interval": 2, "attention_bias": True, "mlp_bias": True},
        yarn(32),
        "smollm3",
        old_spelling=True,
    ),
    "smollm3-layer-types": Recipe(
        LONGER
        | UNPADDED
        | {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]},
        model_type="smollm3",
    ),
    "smollm3-far": Recipe(FAR | UNPADDED | NOT_ROTATED_FIRST, model_type="smollm3"),
    "seed_oss": Recipe(LONGER | UNPADDED | {"head_dim": 12}, model_type="seed_oss"),
    "seed_oss-biases": Recipe(
        LONGER
        | NARROW
        | {"attention_bias": False, "attention_out_bias": True, "mlp_bias": True}
        | {"tie_word_embeddings": True},
        yarn(32),
        "seed_oss",
    ),
    "ernie4_5": Recipe(LONGER | UNPADDED | {"head_dim": 12}, model_type="ernie4_5"),
    "ernie4_5-bias-yarn-old": Recipe(
        LONGER | NARROW | {"use_bias": True, "tie_word_embeddings": False},
        yarn(32),
        "ernie4_5",
        old_spelling=True,
    ),
    "phi3": Recipe(LONGER | UNPADDED, model_type="phi3"),
    "phi3-longrope": Recipe(
        LONGER | UNPADDED | {"sliding_window": 16, "original_max_position_embeddings": 100},
        LONGROPE,
        "phi3",
    ),
    "phi3-partial-old": Recipe(
        LONGER
        | UNPADDED
        | {"tie_word_embeddings": True, "original_max_position_embeddings": 100}
        | {"partial_rotary_factor": 0.75},
        LONGROPE | {"short_factor": [1.0, 1.5, 2.0], "long_factor": [2.0, 3.0, 4.0]},
        "phi3",
        old_spelling=True,
    ),
    "phi3-far": Recipe(FAR | UNPADDED, model_type="phi3"),
    "phi3-far-longrope": Recipe(
        FAR | UNPADDED | {"original_max_position_embeddings": 32}, LONGROPE, "phi3"
    ),
    "glm4": Recipe(LONGER | UNPADDED | {"head_dim": 12}, model_type="glm4"),
    "glm4-whole-yarn-old": Recipe(
        LONGER
        | UNPADDED
        | NARROW
        | {"attention_bias": False, "tie_word_embeddings": True, "partial_rotary_factor": 1.0},
        yarn(32),
        "glm4",
        old_spelling=True,
    ),
    "glm4-far": Recipe(FAR | UNPADDED | NARROW, model_type="glm4"),
    "exaone4": Recipe(
        LONGER | {"sliding_window": 16, "sliding_window_pattern": 2}, model_type="exaone4"
    ),
    "exaone4-full": Recipe(
        LONGER | {"sliding_window": None, "layer_types": ["full_attention"] * 2}, LLAMA3, "exaone4"
    ),
    "exaone4-not-rotated": Recipe(
        LONGER | {"layer_types": ["full_attention"] * 2, "tie_word_embeddings": True},
        model_type="exaone4",
    ),
    "exaone4-far": Recipe(
        FAR | {"sliding_window": 16, "sliding_window_pattern": 2}, model_type="exaone4"
    ),
    "cohere2": Recipe(
        LONGER | UNPADDED | {"num_hidden_layers": 4, "sliding_window": 16}, model_type="cohere2"
    ),
    "cohere2-bias-linear-old": Recipe(
        LONGER
        | UNPADDED
        | {"attention_bias": True, "logit_scale": 0.5, "tie_word_embeddings": False}
        | {"sliding_window": 16, "layer_types": ["full_attention", "sliding_attention"]},
        {"rope_type": "linear", "factor": 2.0},
        "cohere2",
        old_spelling=True,
    ),
    "cohere2-far": Recipe(
        FAR | UNPADDED | {"sliding_window": 600, "layer_types": ["sliding_attention"] * 2},
        model_type="cohere2",
    ),
    "ernie4_5-far": Recipe(FAR | NARROW, model_type="ernie4_5"),
    "ernie4_5-far-longrope": Recipe(FAR | NARROW, LONGROPE, "ernie4_5"),
    "granite": Recipe(LONGER | GRANITE, model_type="granite"),
    "granite-biases-head-dim": Recipe(
        LONGER | GRANITE | {"attention_bias": True, "mlp_bias": True, "head_dim": 12},
        model_type="granite",
    ),
    "granite-tied-unscaled": Recipe(LONGER | {"tie_word_embeddings": True}, model_type="granite"),
    "granite-yarn-old": Recipe(LONGER | GRANITE, yarn(32), "granite", old_spelling=True),
    "gemma": Recipe(LONGER | NARROW, model_type="gemma"),
    "gemma-untied-bias": Recipe(
        LONGER | {"head_dim": 12, "attention_bias": True, "tie_word_embeddings": False},
        model_type="gemma",
    ),
    "gemma-linear-old": Recipe(
        LONGER | NARROW, {"rope_type": "linear", "factor": 4.0}, "gemma", old_spelling=True
    ),
    "deepseek_v2": Recipe(LONGER | LATENT, model_type="deepseek_v2"),
    "deepseek_v2-one-projection-old": Recipe(
        LONGER
        | LATENT
        | {"q_lora_rank": None, "attention_bias": True, "mlp_bias": True}
        | {"tie_word_embeddings": True},
        yarn(32, mscale=0.7, mscale_all_dim=0.7),
        "deepseek_v2",
        old_spelling=True,
    ),
    "deepseek_v3": Recipe(LONGER | LATENT, yarn(32, mscale=1.0, mscale_all_dim=1.0), "deepseek_v3"),
    "deepseek_v3-bias-halves": Recipe(
        LONGER | LATENT | {"attention_bias": True, "rope_interleave": False},
        yarn(32, mscale=1.0, mscale_all_dim=0.5),
        "deepseek_v3",
    ),
    "deepseek_v3-far": Recipe(FAR | LATENT, model_type="deepseek_v3"),
    "deepseek_v3-far-yarn": Recipe(
        FAR | LATENT, yarn(32, factor=40.0, mscale=1.0, mscale_all_dim=1.0), "deepseek_v3"
    ),
}


def make_model(name: str, directory: Path) -> Path:
    """Make one model.

    Args:
        name: a key of RECIPES; it also seeds the weights.
        directory: where its own directory goes.

    Returns:
        The model's directory.
    """
    recipe, path = RECIPES[name], directory / name
    rope = {"rope_theta": 10000.0} | (recipe.rope or {"rope_type": "default"})
    config_class = CONFIG_MAPPING[recipe.model_type]
    known = config_class().to_dict().keys() | config_class.attribute_map
    base = {key: value for key, value in (BASE | {"rope_parameters": rope}).items() if key in known}
    config = config_class(**(base | recipe.config))

    generator = torch.Generator().manual_seed(sorted(RECIPES).index(name))
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        # transformers starts biases at 0 and norms at 1, where a forgotten one would not show.
        corrections = [
            pair for pair in model.named_buffers() if pair[0].endswith("correction_bias")
        ]
        for parameter_name, parameter in [*model.named_parameters(), *corrections]:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.2 * noise + (1.0 if "norm" in parameter_name else 0.0))

    model = model.to(getattr(torch, recipe.dtype))
    model.save_pretrained(path, max_shard_size=recipe.max_shard_size)
    if recipe.old_spelling:
        respell(path / "config.json")
    if recipe.embedding_name:
        rename_embedding(path / "model.safetensors", recipe.embedding_name)
    save_byte_tokenizer(path)
    return path


def respell(config: Path) -> None:
    """Write RoPE as config.json did before transformers 5."""
    hf = json.loads(config.read_text())
    rope = hf.pop("rope_parameters")
    hf["rope_theta"] = rope.pop("rope_theta")
    hf["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config.write_text(json.dumps(hf, indent=2))


def rename_embedding(file: Path, name: str) -> None:
    """Store the tied tensor under another name."""
    tensors = load_file(file)
    tensors[name] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, file, metadata={"format": "pt"})


def save_byte_tokenizer(path: Path) -> None:
    """A tokenizer of 256 bytes and no merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: i for i, character in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(path / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))


def main() -> None:
    """Read the command line and make the models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("names", nargs="*", help="all, where none is named")
    options = parser.parse_args()
    unknown = set(options.names) - set(RECIPES)
    if unknown:
        parser.error(f"no model named {', '.join(sorted(unknown))}; there are {', '.join(RECIPES)}")
    for name in options.names or RECIPES:
        print(make_model(name, options.directory))


if __name__ == "__main__":
    main()
