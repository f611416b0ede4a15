"""Configurations from GGUF metadata."""

import math
import re
from types import MappingProxyType

import numpy as np
import pytest

from tests.checkpoint.tiny import hf_config, random_tensors, write_gguf
from tests.tiny import facts
from xplm.checkpoint.gguf import open_gguf
from xplm.checkpoint.gguf_config import config_from_gguf
from xplm.checkpoint.gguf_rope import ROPE_FACTORS
from xplm.errors import CheckpointError, ConfigError
from xplm.models.families.config_json import read_config, write_config

METADATA = MappingProxyType(
    {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "llama.context_length": 8192,
        "llama.embedding_length": 64,
        "llama.feed_forward_length": 96,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.layer_norm_rms_epsilon": 1e-6,
        "llama.rope.freq_base": 500000.0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
)
SHAPES = MappingProxyType({"token_embd.weight": (100, 64), "output.weight": (100, 64)})


def llama3_divisors(factor, theta, head_dim):
    """Written out from the rule as Llama 3.1's release states it, one frequency at a time."""
    divisors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * math.pi * theta ** (i / head_dim)
        if wavelength < 8192 / 4:
            divisors.append(1.0)
        elif wavelength > 8192 / 1:
            divisors.append(factor)
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(divisors, np.float32)


def test_the_fields_of_a_llama():
    expected = read_config(
        hf_config(
            vocab_size=100,
            hidden_size=64,
            intermediate_size=96,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=8192,
            rms_norm_eps=1e-6,
            rope_theta=500000.0,
            tie_word_embeddings=False,
        )
    )
    assert config_from_gguf(METADATA, SHAPES, {}) == expected


def test_a_turn_may_end_with_an_id_of_its_own():
    metadata = METADATA | {"tokenizer.ggml.eot_token_id": 5}
    assert config_from_gguf(metadata, SHAPES, {}).eos_token_id == (2, 5)


def test_linear_scaling():
    metadata = METADATA | {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    rope = facts(config_from_gguf(metadata, SHAPES, {})).rope
    assert (rope.rope_type, rope.factor) == ("linear", 4.0)


def test_yarn_scaling():
    metadata = METADATA | {
        "llama.rope.scaling.type": "yarn",
        "llama.rope.scaling.factor": 4.0,
        "llama.rope.scaling.original_context_length": 2048,
    }
    rope = facts(config_from_gguf(metadata, SHAPES, {})).rope
    assert (rope.rope_type, rope.factor) == ("yarn", 4.0)
    assert rope.original_max_position_embeddings == 2048
    assert rope.attention_factor is None

    rope = facts(
        config_from_gguf(metadata | {"llama.rope.scaling.attn_factor": 2.0}, SHAPES, {})
    ).rope
    assert rope.attention_factor == pytest.approx(2.0 * (0.1 * math.log(4.0) + 1.0))


def test_the_ends_of_yarns_ramp():
    metadata = METADATA | {
        "llama.rope.scaling.type": "yarn",
        "llama.rope.scaling.factor": 4.0,
        "llama.rope.scaling.original_context_length": 2048,
        "llama.rope.scaling.yarn_beta_fast": 16.0,
        "llama.rope.scaling.yarn_beta_slow": 2.0,
        "llama.rope.scaling.yarn_ext_factor": 1.0,
    }
    rope = facts(config_from_gguf(metadata, SHAPES, {})).rope
    assert (rope.beta_fast, rope.beta_slow) == (16.0, 2.0)


def test_linear_without_a_factor_scales_nothing():
    metadata = METADATA | {"llama.rope.scaling.type": "linear"}
    assert facts(config_from_gguf(metadata, SHAPES, {})).rope.rope_type == "default"


def test_the_length_that_a_linear_scaling_stretched_is_read():
    metadata = METADATA | {
        "llama.context_length": 4096,
        "llama.rope.scaling.type": "linear",
        "llama.rope.scaling.factor": 4.0,
    }
    assert config_from_gguf(metadata, SHAPES, {}).context_length == 16384
    metadata["llama.rope.scaling.original_context_length"] = 1024
    assert config_from_gguf(metadata, SHAPES, {}).context_length == 4096


@pytest.mark.parametrize("key", ["scaling.factor", "scale_linear"])
def test_a_factor_without_a_type_is_linear(key):
    rope = facts(config_from_gguf(METADATA | {f"llama.rope.{key}": 4.0}, SHAPES, {})).rope
    assert (rope.rope_type, rope.factor) == ("linear", 4.0)


@pytest.mark.parametrize(
    "key", ["attn_factor", "yarn_attn_factor", "yarn_ext_factor", "yarn_log_multiplier", "alpha"]
)
def test_a_scaling_that_would_be_ignored_is_refused(key):
    metadata = METADATA | {f"llama.rope.scaling.{key}": 0.5, "llama.rope.scaling.factor": 4.0}
    with pytest.raises(ConfigError, match=rf"rope\.scaling\.{key} must be \d .* linear; got 0\.5"):
        config_from_gguf(metadata, SHAPES, {})


def test_divisors_beside_another_scaling_are_refused():
    metadata = METADATA | {"llama.rope.scaling.factor": 4.0}
    with pytest.raises(ConfigError, match="RoPE must be scaled once"):
        config_from_gguf(metadata, SHAPES, {ROPE_FACTORS: llama3_divisors(8.0, 500000.0, 16)})


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3_scaling_is_rebuilt_from_its_divisors(tmp_path, factor):
    config = hf_config(head_dim=64, rope_theta=500000.0, max_position_embeddings=131072)
    divisors = llama3_divisors(factor, 500000.0, 64)
    assert np.any((divisors > 1) & (divisors < factor))  # some are on the ramp
    path = write_gguf(
        tmp_path / "m.gguf", config, random_tensors(config), extra={"rope_freqs.weight": divisors}
    )
    checkpoint = open_gguf(path)

    rope = facts(checkpoint.config).rope
    assert (rope.rope_type, rope.factor) == ("llama3", factor)
    assert (rope.low_freq_factor, rope.high_freq_factor) == (1.0, 4.0)
    assert rope.original_max_position_embeddings == 8192
    assert "rope_freqs.weight" not in checkpoint.tensors


@pytest.mark.parametrize(
    "divisors",
    [
        np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], np.float32),
        np.full(8, np.nan, np.float32),
        np.ones(3, np.float32),
        np.zeros(0, np.float32),
        np.full((2, 4), -1.0, np.float32),
    ],
)
def test_divisors_of_another_rule_are_refused(divisors):
    with pytest.raises(ConfigError, match=r"rope_freqs\.weight must follow Llama 3's rule"):
        config_from_gguf(METADATA, SHAPES, {ROPE_FACTORS: divisors})


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"general.architecture": "mamba"}, "'mamba'"),
        ({"general.architecture": ["llama"]}, "general.architecture"),
        ({"llama.block_count": "two"}, "llama.block_count .* 'two'"),
        ({"llama.block_count": True}, "llama.block_count"),
        ({"llama.block_count": 2**32 - 1}, "num_hidden_layers is at most 10000"),
        ({"llama.block_count": 2**63}, "num_hidden_layers is at most 10000"),
        ({"llama.attention.head_count": 0}, "num_attention_heads"),
        ({"llama.attention.head_count_kv": [2, 1]}, r"head_count_kv .* single number.*\[2, 1\]"),
        ({"llama.attention.head_count_kv": [2, 2, 2]}, "head_count_kv .* one for each layer"),
        ({"llama.feed_forward_length": []}, "feed_forward_length .* single number"),
        ({"llama.rope.dimension_count": 8}, "rotates 8 of 16"),
        ({"llama.rope.scaling.type": "longrope"}, "'longrope'"),
        ({"llama.rope.scaling.type": "yarn"}, "llama.rope.scaling.factor"),
        (
            {
                "llama.rope.scaling.type": "yarn",
                "llama.rope.scaling.factor": 0.0,
                "llama.rope.scaling.original_context_length": 64,
                "llama.rope.scaling.attn_factor": 1.0,
            },
            "factor",
        ),
        ({"tokenizer.ggml.eos_token_id": "2"}, "eos_token_id"),
    ],
)
def test_odd_metadata_is_refused(change, complaint):
    with pytest.raises(ConfigError, match=complaint):
        config_from_gguf(METADATA | change, SHAPES, {})


def test_one_value_for_all_layers_may_be_written_for_each():
    metadata = METADATA | {
        "llama.attention.head_count": [4, 4],
        "llama.attention.head_count_kv": [2, 2],
        "llama.feed_forward_length": [96, 96],
        "llama.rope.freq_base": [500000.0, 500000.0],
    }
    assert config_from_gguf(metadata, SHAPES, {}) == config_from_gguf(METADATA, SHAPES, {})


def test_yarn_without_an_original_length_was_trained_on_the_context():
    metadata = METADATA | {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}
    rope = facts(config_from_gguf(metadata, SHAPES, {})).rope
    assert (rope.rope_type, rope.original_max_position_embeddings) == ("yarn", 8192)


@pytest.mark.parametrize(
    ("biases", "window", "expected"),
    [
        ("", 0, ("llama", False, False)),
        ("qo", 0, ("llama", True, True)),
        ("q", 0, ("qwen2", True, False)),
        ("", 16, ("mistral", False, False)),
        ("q", 16, ("qwen2", True, False)),
    ],
)
def test_biases_and_windows_of_a_llama_decide_its_family(biases, window, expected):
    names = {"q": "blk.0.attn_q.bias", "o": "blk.0.attn_output.bias"}
    shapes = SHAPES | {names[bias]: (64,) for bias in biases}
    config = config_from_gguf(METADATA | {"llama.attention.sliding_window": window}, shapes, {})
    assert (config.model_type, *facts(config).biases[:2]) == expected
    assert facts(config).windows == (window or None,) * 2
    assert read_config(write_config(config)) == config  # which `convert` writes


def test_biases_beside_a_window_are_no_familys():
    shapes = SHAPES | {"blk.0.attn_q.bias": (64,), "blk.0.attn_output.bias": (64,)}
    window = {"llama.attention.sliding_window": 16}
    with pytest.raises(ConfigError, match="a llama must see its whole context of 8192 tokens"):
        config_from_gguf(METADATA | window, shapes, {})


def phi(**changes):
    """The metadata of a phi2, whose heads are 16 wide."""
    metadata = {key.replace("llama.", "phi2."): value for key, value in METADATA.items()}
    del metadata["phi2.attention.layer_norm_rms_epsilon"]
    own = {"general.architecture": "phi2", "phi2.attention.layer_norm_epsilon": 1e-5}
    return metadata | own | {key.replace("__", "."): value for key, value in changes.items()}


def test_a_phi_rotates_the_whole_head_where_its_file_does_not_say_how_much():
    assert facts(config_from_gguf(phi(), SHAPES, {})).rope.dim == 16
    config = config_from_gguf(phi(phi2__rope__dimension_count=6), SHAPES, {})
    assert facts(config).rope.dim == 6
    assert read_config(write_config(config)) == config


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"phi2__rope__dimension_count": 0}, "dimension_count is an even number.*16 .*; got 0"),
        ({"phi2__rope__dimension_count": 7}, "dimension_count is an even number.* got 7"),
        ({"phi2__rope__dimension_count": 18}, "dimension_count is an even number.* got 18"),
        ({"phi2__attention__key_length": 8}, "head_dim of a phi is hidden_size / heads, 16; got 8"),
        ({"phi2__attention__layer_norm_epsilon": "1"}, "phi2.attention.layer_norm_epsilon"),
        ({"phi2__attention__layer_norm_rms_epsilon": 1e-3}, "must be neutral; got phi2.attention"),
        ({"phi2__attention__sliding_window": 64}, "a phi2 must see its whole context"),
        ({"phi2__embedding_length": 0}, "phi2.rope.dimension_count"),
    ],
)
def test_what_no_phi_has_is_refused(changes, complaint):
    with pytest.raises(ConfigError, match=complaint):
        config_from_gguf(phi(**changes), SHAPES, {})


def test_a_window_whose_layers_are_not_known_is_refused():
    metadata = {key.replace("llama.", "qwen2."): value for key, value in METADATA.items()}
    metadata |= {"general.architecture": "qwen2", "qwen2.attention.sliding_window": 8192}
    assert facts(config_from_gguf(metadata, SHAPES, {})).windows == (None, None)
    with pytest.raises(ConfigError, match="sliding_window is 4096"):
        config_from_gguf(metadata | {"qwen2.attention.sliding_window": 4096}, SHAPES, {})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention.causal", False),
        ("attention.scale", 0.5),
        ("attention.value_length", 32),
        ("attn_logit_softcapping", 50.0),
        ("expert_weights_norm", True),
        ("final_logit_softcapping", 30.0),
        ("logit_scale", 0.25),
        ("pooling_type", 3),
        ("rope.dimension_sections", [16, 24, 24, 0]),
        ("use_parallel_residual", True),
        ("classifier.output_labels", ["good", "bad"]),
    ],
)
def test_a_key_that_would_change_an_answer_is_refused_by_name(key, value):
    with pytest.raises(ConfigError, match=rf"must be neutral; got llama\.{re.escape(key)} = "):
        config_from_gguf(METADATA | {f"llama.{key}": value}, SHAPES, {})


def test_every_key_that_is_refused_is_named_at_once():
    metadata = METADATA | {"llama.logit_scale": 0.25, "llama.attention.causal": False}
    with pytest.raises(ConfigError, match=r"logit_scale = 0.25 .*causal = False \(neutral: True\)"):
        config_from_gguf(metadata, SHAPES, {})


def test_neutral_keys_change_nothing(caplog):
    metadata = METADATA | {
        "llama.vocab_size": 100,
        "llama.attention.causal": True,
        "llama.attention.scale": float(np.float32(0.25)),
        "llama.attention.value_length": 16,
        "llama.attention.q_lora_rank": 0,
        "llama.expert_count": 0,
        "llama.expert_weights_norm": False,
        "llama.expert_weights_scale": 1.0,
        "llama.final_logit_softcapping": 0.0,
        "llama.rope.dimension_sections": [0, 0, 0, 0],
        "llama.rope.scaling.finetuned": False,
        "llama.tensor_data_layout": "Meta AI original pth",
        "general.quantization_version": 2,
        "quantize.imatrix.chunks_count": 9,
    }
    assert config_from_gguf(metadata, SHAPES, {}) == config_from_gguf(METADATA, SHAPES, {})
    assert not caplog.messages


def test_keys_that_are_not_known_are_named_in_one_warning(caplog):
    metadata = METADATA | {"llama.new": 1, "llama.attention.newer\x1b": 2}
    assert config_from_gguf(metadata, SHAPES, {}) == config_from_gguf(METADATA, SHAPES, {})
    (line,) = caplog.messages
    assert line.endswith("not honoured: llama.new, llama.attention.newer\\x1b")


def test_a_file_of_adapters_is_refused():
    with pytest.raises(CheckpointError, match=r"must hold a model; .* type 'adapter'"):
        config_from_gguf(METADATA | {"general.type": "adapter"}, SHAPES, {})


def test_a_missing_key_is_named():
    metadata = {k: v for k, v in METADATA.items() if k != "llama.embedding_length"}
    with pytest.raises(ConfigError, match=r"llama\.embedding_length .* got nothing"):
        config_from_gguf(metadata, SHAPES, {})


def test_a_part_of_a_split_file_is_refused():
    with pytest.raises(CheckpointError, match="llama-gguf-split --merge"):
        config_from_gguf(METADATA | {"split.count": 3}, SHAPES, {})


def test_a_file_without_an_embedding_is_refused():
    with pytest.raises(CheckpointError, match=r"token_embd\.weight"):
        config_from_gguf(METADATA, {}, {})


def test_a_granite_without_rope_is_refused(tmp_path):
    config = hf_config(model_type="granite")
    extra = {"granite__rope__scaling__finetuned": False}
    path = write_gguf(tmp_path / "m.gguf", config, random_tensors(config), **extra)
    with pytest.raises(ConfigError, match="a granite must have rotary positions"):
        open_gguf(path)


@pytest.mark.parametrize("scores", [1, 3])
def test_other_scores_than_a_familys_are_refused(scores):
    metadata = {key.replace("llama.", "glm4moe."): value for key, value in METADATA.items()}
    own = {"general.architecture": "glm4moe", "glm4moe.expert_gating_func": scores}
    with pytest.raises(ConfigError, match=rf"glm4moe\.expert_gating_func is {scores}"):
        config_from_gguf(metadata | own, SHAPES, {})
