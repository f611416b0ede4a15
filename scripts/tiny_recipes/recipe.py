"""What a tiny model is made of, and settings that several share."""

from dataclasses import dataclass, field
from typing import Any

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
ENDLESS = LONGER | {"eos_token_id": None}  # a reply ends where a test says, whatever the weights
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

LATENT = (
    UNPADDED
    | {
        "num_key_value_heads": 4,
        "q_lora_rank": 12,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 4,
        "v_head_dim": 6,
        "first_k_dense_replace": 1,
        "n_group": 4,
        "topk_group": 2,
    }
    | SCORED_EXPERTS
)
NOT_ROUTED = {"first_k_dense_replace": 2}  # all layers are dense
