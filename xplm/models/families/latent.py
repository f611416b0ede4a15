"""Latent attention of a config.json, and back."""

import math
from collections.abc import Mapping
from typing import Any

from xplm.errors import ConfigError
from xplm.kernels.rope import NEIGHBOURS
from xplm.models.families.fields import Fields
from xplm.models.families.gguf import ROTATED, YARN_LOG, GGUFFile
from xplm.models.families.rope import read_rope, write_rope
from xplm.specs import LatentAttentionSpec, RMSNormSpec, RopeSpec

LATENT = (
    *("attention_bias", "q_lora_rank", "kv_lora_rank"),
    *("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"),
)
"""Keys of config.json."""

LATENT_DEFAULTS = {
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}
"""What transformers takes where these keys are left out."""

GGUF_Q_RANK, GGUF_KV_RANK = "attention.q_lora_rank", "attention.kv_lora_rank"
GGUF_KEY, GGUF_VALUE = "attention.key_length_mla", "attention.value_length_mla"
GGUF_LATENT = (
    *(GGUF_Q_RANK, GGUF_KV_RANK, GGUF_KEY, GGUF_VALUE),
    *("attention.value_length", ROTATED, YARN_LOG),
)
"""Keys of a GGUF file."""

LATENT_MODULES: Mapping[str, str] = {
    **{f"self_attn.{part}_proj": f"attn_{part}" for part in ("q_a", "q_b", "kv_b")},
    **{f"self_attn.{part}_layernorm": f"attn_{part}_norm" for part in ("q_a", "kv_a")},
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
}
"""GGUF's modules; attn_kv_b in older files alone."""

GGUF_BY_HEAD = {"self_attn.kv_b_proj": {"attn_k_b": True, "attn_v_b": False}}

INNER_NORM = RMSNormSpec(1e-6)
"""Of both latents, whatever `rms_norm_eps` is."""


def read_latent_attention(hf: Fields, pairs: str = NEIGHBOURS) -> LatentAttentionSpec:
    """Latent attention of the ranks and heads that config.json gives.

    Args:
        hf: the config.json.
        pairs: the features that are rotated together.

    Raises:
        ConfigError: a head has no keys of its own, or RoPE asks for what xplm does not have.
    """
    heads = hf.integer("num_attention_heads")
    if (groups := hf.integer("num_key_value_heads", heads)) != heads:
        raise ConfigError(
            f"num_key_value_heads of latent attention is num_attention_heads, {heads}; got {groups}"
        )
    N = hf.integer("qk_nope_head_dim")
    rope = read_rope(hf, hf.integer("qk_rope_head_dim"), pairs=pairs)
    given = hf.get("rope_scaling") or hf.get("rope_parameters") or {}
    if given.get("mscale_all_dim") and rope.rope_type not in ("default", "yarn"):
        raise ConfigError(
            f"mscale_all_dim of latent attention belongs to yarn; got it with {rope.rope_type}"
        )
    return LatentAttentionSpec(
        num_heads=heads,
        q_rank=None if hf.get("q_lora_rank") is None else hf.integer("q_lora_rank"),
        kv_rank=hf.integer("kv_lora_rank"),
        nope_dim=N,
        value_dim=hf.integer("v_head_dim"),
        scale=(N + rope.dim) ** -0.5 * temperature(rope) ** 2,
        rope=rope,
        norm=INNER_NORM,
        bias=hf.flag("attention_bias"),
    )


def write_latent_attention(mixer: LatentAttentionSpec) -> dict[str, Any]:
    """The keys that it is read from."""
    return write_rope(mixer.rope) | {
        "head_dim": mixer.rope.dim,  # as transformers' classes have it
        "attention_bias": mixer.bias,
        "q_lora_rank": mixer.q_rank,
        "kv_lora_rank": mixer.kv_rank,
        "qk_nope_head_dim": mixer.nope_dim,
        "qk_rope_head_dim": mixer.rope.dim,
        "v_head_dim": mixer.value_dim,
    }


def read_gguf_latent(file: GGUFFile) -> dict[str, Any]:
    """Ranks and heads of a GGUF file.

    Newer files hold latents as keys and values of one head, whose lengths are the usual keys; the lengths of all heads
    have keys of their own. In older ones those are the usual keys.
    """
    heads, P = file.integer("attention.head_count"), file.integer(ROTATED)
    length = file.integer(GGUF_KEY, 0) or file.head_dim
    value = file.integer(GGUF_VALUE, 0) or file.integer("attention.value_length")
    return {
        "num_key_value_heads": heads,
        "head_dim": P,
        "q_lora_rank": file.integer(GGUF_Q_RANK, 0) or None,
        "kv_lora_rank": file.integer(GGUF_KV_RANK),
        "qk_nope_head_dim": length - P,
        "qk_rope_head_dim": P,
        "v_head_dim": value,
    }


def write_gguf_latent(mixer: LatentAttentionSpec) -> dict[str, Any]:
    """The keys that these are read from, as newer files have them."""
    return {
        "attention.head_count_kv": 1,
        "attention.key_length": mixer.kv_rank + mixer.rope.dim,
        "attention.value_length": mixer.kv_rank,
        GGUF_Q_RANK: mixer.q_rank,
        GGUF_KV_RANK: mixer.kv_rank,
        GGUF_KEY: mixer.head_dim,
        GGUF_VALUE: mixer.value_dim,
    }


def temperature(rope: RopeSpec) -> float:
    """The factor of q and of k, hence squared of the scores, that `mscale_all_dim` of yarn stands for."""
    if not rope.mscale_all_dim or rope.factor <= 1.0:
        return 1.0
    return 0.1 * rope.mscale_all_dim * math.log(rope.factor) + 1.0
