"""Which keys of a config.json are read, refused, named or left alone."""

from dataclasses import replace

import pytest

from tests.tiny import LONGROPE, VARIANTS, YARN, facts, make_config
from xplm.errors import ConfigError
from xplm.models.families.config_json import read_config, write_config
from xplm.models.families.table import FAMILIES

SHARE = "partial_rotary_factor"


def test_keys_that_nobody_reads_are_named_in_one_warning(caplog):
    unknown = {
        "torch_dtype": "bfloat16",
        "pretraining_tp": 1,
        "sharp": True,
        "x\n": 1,
        "none": None,
    }
    yarn = YARN | {"finetuned": True}
    changed = make_config(**unknown, rope_scaling=yarn)
    (record,) = caplog.records
    said = "reads; they are ignored: sharp, x\\n, rope_scaling.finetuned"
    assert record.getMessage().endswith(said)
    assert changed == make_config(rope_scaling=YARN)


def test_an_older_type_of_rope_that_contradicts_the_newer_is_named(caplog):
    both = {"type": "linear", "rope_type": "dynamic", "factor": 2.0}
    assert facts(make_config(rope_scaling=both)).rope.rope_type == "dynamic"
    assert caplog.messages[0].endswith("they are ignored: rope_scaling.type")
    caplog.clear()
    make_config(rope_scaling=both | {"type": "dynamic"})
    assert not caplog.messages


@pytest.mark.parametrize("name", list(VARIANTS))
def test_a_config_of_our_own_gives_no_warning(name, caplog):
    read_config(write_config(make_config(**VARIANTS[name])) | {"torch_dtype": "float32"})
    assert not caplog.records


NOT_HONOURED = [
    ({"is_causal": False}, "is_causal must be true or left out, .*; got False"),
    ({"is_causal": None}, "is_causal must be true"),
    ({"pruned_heads": {"0": [1]}}, "pruned_heads must be {}"),
    ({"add_cross_attention": True}, "add_cross_attention must be false"),
    ({"per_layer_config": {"0": {"sliding_window": 3}}}, "per_layer_config must be {}"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor must be 1.0"),
    (
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        "says 'gptq'; load the original",
    ),
    ({"quantization_config": {"load_in_4bit": True}}, "says 'bitsandbytes'; load the original"),
    ({"layer_types": ["chunked_attention"] * 2}, "layer_types are full_ or sliding"),
    ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types of this"),
]
READS = dict.fromkeys(
    (
        "qwen2",
        "qwen3",
        "smollm3",
        "exaone4",
        "cohere2",
        "qwen2_moe",
        "gpt_oss",
        "olmo3",
        "gemma2",
        "gemma3_text",
    ),
    ("layer_types of this",),
)
READS |= dict.fromkeys(
    ("phi", "phi3", "glm4", "glm4_moe", "gpt_neox", "stablelm", "nemotron"), (SHARE,)
)
"""By model_type, what is honoured, as the refusals of other families begin."""


@pytest.mark.parametrize(
    ("model_type", "given", "said"),
    [
        (name, given, said)
        for name in FAMILIES
        for given, said in NOT_HONOURED
        if not said.startswith(READS.get(name, ()))
    ],
)
def test_a_key_that_is_not_honoured_is_refused_by_name(model_type, given, said):
    sizes = {"model_type": model_type, "num_attention_heads": 4, "num_key_value_heads": 4}
    with pytest.raises(ConfigError, match=said):
        make_config(**sizes, **given)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_key_at_its_neutral_value_is_taken(model_type):
    sizes = {"model_type": model_type, "num_attention_heads": 4, "num_key_value_heads": 4}
    neutral = {"is_causal": True, "pruned_heads": {}, "quantization_config": None}
    neutral |= {"per_layer_config": None, "partial_rotary_factor": 1, "is_encoder_decoder": False}
    family = FAMILIES[model_type]
    if family.spelling.get(SHARE, SHARE) in family.keys:
        sizes[SHARE] = 1
    assert make_config(**sizes | neutral) == make_config(**sizes)


@pytest.mark.parametrize("rope_type", ["linear", "dynamic", "yarn", "llama3", "longrope"])
def test_a_rope_stretched_by_one_comes_back(rope_type):
    given = {"rope_type": rope_type, "factor": 1.0, "original_max_position_embeddings": 16}
    if rope_type == "llama3":
        given |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    if rope_type == "longrope":
        given |= LONGROPE | {"factor": 1.0}
    config = make_config(rope_scaling=given)
    assert read_config(write_config(config)) == config


def test_blocks_that_config_json_cannot_describe_are_refused():
    config = make_config()
    first = config.blocks[0]
    windowed = replace(first, mixer=replace(first.mixer, window=3))
    with pytest.raises(ConfigError, match="blocks of a llama must be those"):
        write_config(replace(config, blocks=(windowed, *config.blocks[1:])))


def test_gpt2_says_what_its_scores_are_scaled_by():
    plain = make_config(model_type="gpt2")
    assert facts(plain).scales == [0.5, 0.5]
    by_layer = make_config(model_type="gpt2", scale_attn_by_inverse_layer_idx=True)
    assert facts(by_layer).scales == [0.5, 0.25]
    alone = make_config(
        model_type="gpt2", scale_attn_by_inverse_layer_idx=True, scale_attn_weights=False
    )
    assert facts(alone).scales == [1.0, 0.5]
    for config in (plain, by_layer, alone):
        assert read_config(write_config(config)) == config
    assert facts(make_config(scale_attn_weights=False)).scales[1] == 0.5  # not a Llama's key


def test_gpt2_is_read_under_the_usual_names_too_but_not_under_two():
    sizes = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2}
    usual = read_config({"model_type": "gpt2", "vocab_size": 9, **sizes})
    assert (usual.hidden_size, usual.num_hidden_layers, facts(usual).num_attention_heads) == (
        8,
        3,
        2,
    )
    with pytest.raises(ConfigError, match="hidden_size is n_embd here; got 8 and 16"):
        read_config({"model_type": "gpt2", "vocab_size": 9, **sizes, "n_embd": 16})
    with pytest.raises(ConfigError, match="heads of a gpt2 share its width of 8; got 2 heads of 6"):
        read_config({"model_type": "gpt2", "vocab_size": 9, **sizes, "head_dim": 6})


def test_a_granite_divides_its_logits():
    config = make_config(model_type="granite", logits_scaling=6.0, residual_multiplier=0.22)
    assert (config.logit_scale, config.blocks[1].branch_scale) == (1 / 6, 0.22)
    assert facts(config).scales == [1.0, 1.0]  # attention_multiplier is left out
    assert write_config(config)["logits_scaling"] == 6.0


@pytest.mark.parametrize("says", ["gelu", "gelu_pytorch_tanh", "gelu_new", None])
def test_every_gelu_of_a_gemma_is_the_tanh_form(says):
    config = make_config(model_type="gemma", hidden_act=says)
    assert facts(config).activation == "gelu"
    assert write_config(config)["hidden_act"] == "gelu_pytorch_tanh"


def test_a_gemma_that_sees_later_tokens_is_refused():
    with pytest.raises(ConfigError, match="use_bidirectional_attention must be false"):
        make_config(model_type="gemma", use_bidirectional_attention=True)


def test_a_scale_that_config_json_cannot_describe_is_refused():
    for changes in ({"logit_scale": 0.5}, {"logit_cap": 30.0}, {"embedding_scale": 2.0}):
        with pytest.raises(ConfigError, match=f"the {next(iter(changes))} of a llama must be"):
            write_config(replace(make_config(), **changes))


ROUTED = {
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 0,
    "n_group": 4,
    "topk_group": 2,
}


@pytest.mark.parametrize(
    ("model_type", "given", "said"),
    [
        ("deepseek_v3", {"topk_group": 1}, "hold num_experts_per_tok experts, 3, .*; got 1 of 2$"),
        ("glm4_moe", {"topk_group": 1}, "hold num_experts_per_tok experts, 3, .*; got 1 of 2$"),
        ("deepseek_v2", {"topk_group": 1}, "hold num_experts_per_tok experts, 3, .*; got 1 of 2$"),
        ("deepseek_v3", {"topk_group": 5}, "topk_group is at most n_group, 4; got 5$"),
        ("deepseek_v3", {"n_group": 3}, "n_group divides the 8 experts .* 2 or more; got 3$"),
        ("deepseek_v3", {"n_group": 8}, "n_group divides the 8 experts .* 2 or more; got 8$"),
        ("deepseek_v2", {"n_group": 3}, "n_group divides the 8 experts .* 1 or more; got 3$"),
    ],
)
def test_groups_of_which_a_router_cannot_choose_are_refused(model_type, given, said):
    in_groups = {"topk_method": "group_limited_greedy"} if model_type == "deepseek_v2" else {}
    hf = {"model_type": model_type, **ROUTED, **in_groups}
    make_config(**hf)
    with pytest.raises(ConfigError, match=said):
        make_config(**hf | given)


def test_a_temperature_of_latent_attention_is_yarns():
    hf = {"model_type": "deepseek_v3", "num_attention_heads": 4, "num_key_value_heads": 4}
    linear = {"rope_type": "linear", "factor": 4.0, "mscale_all_dim": 1.0}
    with pytest.raises(
        ConfigError, match=r"mscale_all_dim .* belongs to yarn; got it with linear$"
    ):
        make_config(**hf, rope_parameters=linear)


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3", "qwen2_moe"])
def test_sliding_layers_without_a_window_are_refused(model_type):
    kinds = ["sliding_attention", "full_attention"]
    with pytest.raises(ConfigError, match=r"use_sliding_window is true .*; got None and 7$"):
        make_config(model_type=model_type, sliding_window=7, layer_types=kinds)
