"""The keys and names of a GGUF file that a configuration becomes."""

from dataclasses import replace

import pytest

from tests.checkpoint.tiny import LLAMA3, LONGROPE, YARN, hf_config
from xplm.checkpoint.gguf_config import GGUFModel, config_from_gguf, gguf_metadata
from xplm.errors import ConfigError
from xplm.models.decoder import param_specs
from xplm.models.families.config_json import read_config, write_config
from xplm.models.families.table import FAMILIES

WRITTEN = [family.model_type for family in FAMILIES.values() if family.gguf]
VARIANTS = {
    "plain": {},
    "untied": {"tie_word_embeddings": False},
    "theta": {"rope_theta": 500000.0},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "linear, its length": {
        "rope_scaling": {
            "rope_type": "linear",
            "factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    },
    "yarn": {"rope_scaling": YARN},
    "yarn, its ramp": {
        "rope_scaling": YARN | {"beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.5}
    },
    "llama3": {"rope_scaling": LLAMA3, "rope_theta": 1e8},  # its slowest pair is above the ramp
    "window": {"sliding_window": 16},
    "one head of keys": {"num_key_value_heads": 1},
}
SCORED = {"n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 24}
LATENT = SCORED | {
    "num_key_value_heads": 4,
    "q_lora_rank": 12,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 6,
}
DEEPSEEK_YARN = YARN | {"mscale": 0.5, "mscale_all_dim": 0.5}
OWN = {
    "llama, biases": {"attention_bias": True, "mlp_bias": True},
    "llama, wide heads": {"head_dim": 16},
    "smollm3, biases": {"model_type": "smollm3", "attention_bias": True, "mlp_bias": True},
    "seed_oss, other biases": {
        "model_type": "seed_oss",
        "attention_bias": False,
        "attention_out_bias": True,
        "mlp_bias": True,
    },
    "ernie4_5, biases": {"model_type": "ernie4_5", "use_bias": True},
    "phi3, longrope": {
        "model_type": "phi3",
        "rope_scaling": LONGROPE | {"attention_factor": 1.25},
        "original_max_position_embeddings": 32,
        "partial_rotary_factor": 1.0,
        "sliding_window": 16,
    },
    "qwen3, wide heads": {"model_type": "qwen3", "head_dim": 16},
    "falcon, new": {"model_type": "falcon", "new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon, new, one norm": {
        "model_type": "falcon",
        "new_decoder_architecture": True,
        "num_kv_heads": 2,
        "num_ln_in_parallel_attn": 1,
        "bias": True,
    },
    "falcon, heads": {"model_type": "falcon", "multi_query": False},
    "arcee, biases": {"model_type": "arcee", "attention_bias": True, "mlp_bias": True},
    "gpt_neox, serial": {
        "model_type": "gpt_neox",
        "use_parallel_residual": False,
        "attention_bias": False,
        "hidden_act": "gelu",
    },
    "stablelm, all flags": {
        "model_type": "stablelm",
        "use_qkv_bias": True,
        "qk_layernorm": True,
        "use_parallel_residual": True,
    },
    "phi, all of a head": {"model_type": "phi", "partial_rotary_factor": 1.0},
    "phi, a quarter": {"model_type": "phi", "partial_rotary_factor": 0.25},
    "granite": {
        "model_type": "granite",
        "attention_multiplier": 0.5,
        "embedding_multiplier": 12.0,
        "residual_multiplier": 0.25,
        "logits_scaling": 8.0,
        "mlp_bias": True,
    },
    "nemotron": {"model_type": "nemotron", "attention_bias": True, "partial_rotary_factor": 0.25},
    "phi, eps": {"model_type": "phi", "layer_norm_eps": 1e-3},
    "deepseek_v2, yarn, one projection of q": {
        "model_type": "deepseek_v2",
        "q_lora_rank": None,
        "first_k_dense_replace": 1,
        "routed_scaling_factor": 4.0,
        "rope_scaling": DEEPSEEK_YARN,
    },
    "deepseek_v3, yarn, groups": {
        "model_type": "deepseek_v3",
        "first_k_dense_replace": 0,
        "n_group": 4,
        "topk_group": 2,
        "norm_topk_prob": False,
        "rope_scaling": DEEPSEEK_YARN | {"beta_fast": 16.0},
    },
    "glm4_moe, all flags": SCORED
    | {
        "model_type": "glm4_moe",
        "partial_rotary_factor": 1.0,
        "use_qk_norm": True,
        "attention_bias": True,
        "norm_topk_prob": False,
        "n_shared_experts": 3,
        "first_k_dense_replace": 0,
    },
    "deepseek_v3, dense layers alone": {"model_type": "deepseek_v3", "first_k_dense_replace": 2},
}
CHANGES = {
    "gpt_oss": {"rope_parameters": {"rope_type": "default"}},  # its own is yarn, not truncated
    "glm4_moe": SCORED,
    "deepseek_v2": LATENT,
    "deepseek_v3": LATENT | {"first_k_dense_replace": 1, "n_group": 1, "topk_group": 1},
    "qwen3_moe": {"norm_topk_prob": True},
    "gemma2": {"query_pre_attn_scalar": 8},  # as llama.cpp takes it for granted
    "gemma3_text": {"query_pre_attn_scalar": 8},
    "gpt_neox": {"rotary_pct": 0.5, "rotary_emb_base": 1e8},
    "stablelm": {"partial_rotary_factor": 0.5},
}
"""By family; more than a pair of the heads of 8, where a quarter is usual: RoPE types tell pairs apart."""
OF_LONGROPE = ("phi3",)
"""Families without another scaling."""
OF_LATENTS = ("deepseek_v2", "deepseek_v3")
"""Families whose heads have keys of their own, and whose yarn has DeepSeek's temperature."""
IDS = {"bos_token_id": -1, "eos_token_id": -1}  # a tokenizer's


def make(**changes):
    return read_config(hf_config(**IDS, **changes))


def read_back(config, model: GGUFModel):
    specs = param_specs(config)
    shapes = {
        name: (sum(specs[part].shape[0] for part in ours), *specs[ours[0]].shape[1:])
        for name, ours in model.tensors.items()
    }
    return config_from_gguf(model.metadata, shapes, model.rope_factors)


@pytest.mark.parametrize(
    ("model_type", "name"),
    [
        (model_type, name)
        for model_type in WRITTEN
        for name, changes in VARIANTS.items()
        if model_type not in OF_LONGROPE or "rope_scaling" not in changes
        if model_type != "gpt2" or name in ("plain", "untied")  # the rest are no keys of its own
        if model_type != "starcoder2" or name != "window"  # llama.cpp has none there
        if model_type not in OF_LATENTS or not ("yarn" in name or "one head" in name)
        if name != "untied" or FAMILIES[model_type].gguf[0].has_head
    ],
)
def test_a_configuration_comes_back(model_type, name):
    config = make(model_type=model_type, **VARIANTS[name], **CHANGES.get(model_type, {}))
    back = read_back(config, gguf_metadata(config))
    if FAMILIES[model_type].gguf[0].has_own_head:
        config = replace(config, tie_word_embeddings=False)  # which has a copy
    assert back == config


def test_a_mistral_without_a_window_comes_back_as_a_llama():
    config = make(model_type="mistral", sliding_window=None)
    assert read_back(config, gguf_metadata(config)) == replace(config, model_type="llama")


@pytest.mark.parametrize("name", OWN)
def test_what_is_a_familys_own_comes_back(name):
    sizes = LATENT if "deepseek" in name else {}
    config = make(**{"tie_word_embeddings": False} | sizes | OWN[name])
    assert read_back(config, gguf_metadata(config)) == config


@pytest.mark.parametrize("window", [None, 16])
def test_a_qwen2_comes_back_from_a_llama_too(window):
    sliding = {"sliding_window": window, "use_sliding_window": window is not None}
    config = make(model_type="qwen2", max_window_layers=0, **sliding)
    model = gguf_metadata(config, "llama")
    assert model.layout.has_interleaved_rows
    assert read_back(config, model) == config


def test_the_keys_of_a_phi():
    model = gguf_metadata(make(model_type="phi", layer_norm_eps=1e-5))
    assert model.metadata == {
        "general.architecture": "phi2",
        "phi2.block_count": 2,
        "phi2.context_length": 128,
        "phi2.embedding_length": 32,
        "phi2.feed_forward_length": 64,
        "phi2.vocab_size": 64,
        "phi2.attention.head_count": 4,
        "phi2.attention.head_count_kv": 2,
        "phi2.attention.key_length": 8,
        "phi2.attention.value_length": 8,
        "phi2.attention.layer_norm_epsilon": 1e-5,
        "phi2.rope.freq_base": 10000.0,
        "phi2.rope.dimension_count": 4,
    }
    assert model.tensors["output.weight"] == model.tensors["token_embd.weight"]
    assert model.tensors["output.bias"] == ("lm_head.bias",)
    first = {name for name in model.tensors if name.startswith("blk.0.")}
    modules = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down")
    assert first == {f"blk.0.{m}.{kind}" for m in modules for kind in ("weight", "bias")}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {"model_type": "qwen3", "attention_bias": True},
            "architecture qwen3 have none for attention_bias = True of this qwen3",
        ),
        (
            {"model_type": "qwen3", "use_sliding_window": True, "max_window_layers": 1},
            "qwen3 have none for sliding_window = 4096, use_sliding_window = True, layer_types = ",
        ),
        (
            {"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 0},
            "qwen2 have none for sliding_window = 4096",
        ),
        (
            {"model_type": "phi", "qk_layernorm": True},
            "phi2 have none for qk_layernorm = True of this phi",
        ),
        (
            {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
            "llama have none for rope_type = dynamic, factor = 2.0",
        ),
        ({"model_type": "olmoe", "norm_topk_prob": True}, "none for norm_topk_prob = True"),
        ({"model_type": "olmoe", "clip_qkv": 2.0}, "none for clip_qkv = 2.0 of this olmoe"),
        ({"model_type": "qwen3_moe"}, "none for norm_topk_prob = False of this qwen3_moe"),
        ({"model_type": "cohere", "use_qk_norm": True}, "norms from 64 layers on, and none below"),
        ({"model_type": "gemma", "tie_word_embeddings": False}, "head of a gemma must be its emb"),
        ({"rope_scaling": YARN | {"truncate": False}}, "none for truncate = False"),
        ({"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 64}}, "Llama 3's rule"),
        (
            {"model_type": "gpt_oss", "rope_scaling": YARN | {"truncate": False}},
            "gpt-oss have none for truncate = False of this gpt_oss",
        ),
        ({"model_type": "gpt_oss", "swiglu_limit": 5.0}, "none for swiglu_limit = 5.0"),
        ({"model_type": "gpt_oss", "attention_bias": False}, "none for attention_bias = False"),
        (
            {"model_type": "deepseek_v2", "rope_scaling": YARN} | LATENT,
            r"deepseek2\.rope\.scaling\.yarn_log_multiplier .* got nothing",
        ),
        (
            {"model_type": "deepseek_v2", "rope_scaling": DEEPSEEK_YARN | {"mscale": 1.0}} | LATENT,
            "deepseek2 have none for mscale = 1.0",
        ),
        (
            {"model_type": "deepseek_v2", "rope_scaling": DEEPSEEK_YARN | {"attention_factor": 2.0}}
            | LATENT,
            r"deepseek2\.rope\.scaling\.attn_factor must be 1 where RoPE scaling is yarn",
        ),
        (
            {"model_type": "deepseek_v2", "topk_method": "group_limited_greedy"}
            | LATENT
            | {"n_group": 4, "topk_group": 2},
            "llama.cpp chooses groups by their best two experts .* 4 groups",
        ),
        (
            {"model_type": "deepseek_v3", "rope_interleave": False, "first_k_dense_replace": 2}
            | LATENT,
            "none for rope_interleave = False of this deepseek_v3",
        ),
        ({"model_type": "deepseek_v2", "mlp_bias": True} | LATENT, "none for mlp_bias = True"),
        ({"model_type": "gpt2", "activation_function": "relu"}, "none for activation_function = "),
        (
            {"model_type": "gpt2", "scale_attn_weights": False},
            "none for scale_attn_weights = False",
        ),
        ({"model_type": "starcoder2", "sliding_window": 16}, "none for sliding_window = 16"),
        ({"model_type": "starcoder2", "use_bias": False}, "none for use_bias = False"),
        ({"model_type": "opt", "ffn_dim": 64}, "an? opt must be of .* one of none"),
    ],
)
def test_a_model_that_has_no_place_in_a_file_is_refused_by_name(changes, complaint):
    with pytest.raises(ConfigError, match=complaint):
        gguf_metadata(make(**changes))


def test_an_architecture_of_another_family_is_refused():
    with pytest.raises(ConfigError, match=r"of a qwen2 must be .* one of qwen2, llama; got phi2"):
        gguf_metadata(make(model_type="qwen2"), "phi2")


def test_files_of_an_architecture_that_no_family_claims_have_one():
    rest = [lay.architecture for f in FAMILIES.values() for lay in f.gguf if lay.claims is None]
    claimed = {lay.architecture for f in FAMILIES.values() for lay in f.gguf}
    assert sorted(rest) == sorted(claimed)


@pytest.mark.parametrize(("D", "R"), [(98, 2), (80, 32), (64, 32), (98, 98)])
def test_the_rotated_part_of_a_head_comes_back_exactly(D, R):
    # 98 times 2/98 is 1.9999999999999998 in float64.
    hf = hf_config(
        model_type="phi",
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=D,
        hidden_size=D,
        partial_rotary_factor=1.0,
    )
    model = gguf_metadata(read_config(hf))
    model.metadata["phi2.rope.dimension_count"] = R
    config = read_back(read_config(hf), model)
    assert config.ropes[0].dim == R
    assert read_config(write_config(config)) == config
