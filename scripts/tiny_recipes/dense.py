"""Tiny models whose blocks are dense, by family and flag."""

from tiny_recipes.recipe import (
    ENDLESS,
    FAR,
    FAR_LLAMA3,
    GRANITE,
    LLAMA3,
    LONGER,
    LONGROPE,
    NARROW,
    NEAR,
    NOT_ROTATED_FIRST,
    SHORT,
    UNPADDED,
    WIDE_WINDOW,
    WINDOW,
    Recipe,
    yarn,
)

DENSE = {
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
        ENDLESS | UNPADDED | {"sliding_window": 16, "original_max_position_embeddings": 20},
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
    "cohere": Recipe(ENDLESS, model_type="cohere"),
    "cohere-qk-norm-bias": Recipe(
        ENDLESS
        | {"use_qk_norm": True, "attention_bias": True, "tie_word_embeddings": False}
        | {"logit_scale": 0.5, "head_dim": 12},
        model_type="cohere",
    ),
    "cohere-yarn-old": Recipe(ENDLESS, yarn(32), "cohere", old_spelling=True),
    "nemotron": Recipe(ENDLESS, model_type="nemotron"),
    "nemotron-biases-head-dim": Recipe(
        ENDLESS
        | {"attention_bias": True, "mlp_bias": True, "head_dim": 12}
        | {"partial_rotary_factor": 0.7, "tie_word_embeddings": True},
        model_type="nemotron",
    ),
    "nemotron-linear-old": Recipe(
        ENDLESS, {"rope_type": "linear", "factor": 4.0}, "nemotron", old_spelling=True
    ),
}
