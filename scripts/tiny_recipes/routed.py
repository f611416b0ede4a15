"""Tiny models with experts or latent attention, by family and flag."""

from tiny_recipes.recipe import (
    FAR,
    FEW_EXPERTS,
    FEW_OLMOE,
    FEW_OSS,
    GRANITE,
    LATENT,
    LONGER,
    NARROW,
    NOT_ROUTED,
    SCORED_EXPERTS,
    UNPADDED,
    WIDE_WINDOW,
    Recipe,
    yarn,
)

ROUTED = {
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
    "deepseek_v2-groups": Recipe(
        LONGER
        | LATENT
        | {"topk_method": "group_limited_greedy", "routed_scaling_factor": 4.0}
        | {"first_k_dense_replace": 0},
        model_type="deepseek_v2",
    ),
    "deepseek_v3": Recipe(LONGER | LATENT, yarn(32, mscale=1.0, mscale_all_dim=1.0), "deepseek_v3"),
    "deepseek_v3-bias-halves": Recipe(
        LONGER | LATENT | NOT_ROUTED | {"attention_bias": True, "rope_interleave": False},
        yarn(32, mscale=1.0, mscale_all_dim=0.5),
        "deepseek_v3",
    ),
    "deepseek_v3-far": Recipe(FAR | LATENT, model_type="deepseek_v3"),
    "deepseek_v3-far-yarn": Recipe(
        FAR | LATENT, yarn(32, factor=40.0, mscale=1.0, mscale_all_dim=1.0), "deepseek_v3"
    ),
}
