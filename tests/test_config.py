import dataclasses

import pytest

from tests.tiny import BASE, LLAMA3, LONGROPE, VARIANTS, YARN, facts, make_config
from xplm.errors import ConfigError, RequestError
from xplm.models.families.config_json import read_config, write_config
from xplm.specs import LayerNormSpec, RopeSpec


def without(key):
    return {k: v for k, v in BASE.items() if k != key}


def test_fields_are_read_and_defaults_filled_in():
    config = read_config(
        {
            "model_type": "llama",
            "vocab_size": 100,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
        }
    )
    assert facts(config).num_key_value_heads == 4
    assert facts(config).head_dim == 8
    assert config.max_position_embeddings == 2048
    assert facts(config).norm_eps == 1e-6
    assert facts(config).rope == RopeSpec("default", 10000.0, dim=8, max_position_embeddings=2048)
    assert facts(config).biases == (False, False, False)
    assert config.tie_word_embeddings is False
    assert facts(config).windows == (None, None, None)
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, (2,), None)


@pytest.mark.parametrize(
    ("model_type", "expected"),
    [
        ("llama", (4, 2048, (None, None), 1, (2,))),
        ("mistral", (8, 131072, (4096, 4096), 1, (2,))),
        ("qwen2", (32, 32768, (None, None), None, ())),
    ],
)
def test_a_family_says_what_its_config_leaves_out(model_type, expected):
    heads = 4 if model_type == "llama" else 32
    sizes = {"vocab_size": 9, "hidden_size": 64, "intermediate_size": 8, "num_hidden_layers": 2}
    hf = {"model_type": model_type, "num_attention_heads": heads, **sizes}
    config = read_config(hf)
    read = (
        facts(config).num_key_value_heads,
        config.max_position_embeddings,
        facts(config).windows,
        config.bos_token_id,
        config.eos_token_id,
    )
    assert read == expected

    transformers = pytest.importorskip("transformers", reason="transformers is the reference here")
    theirs = transformers.AutoConfig.for_model(**hf)
    eos = () if theirs.eos_token_id is None else (theirs.eos_token_id,)
    assert (theirs.num_key_value_heads, theirs.max_position_embeddings) == expected[:2]
    assert (theirs.bos_token_id, eos) == expected[3:]


def test_a_qwen2_windows_its_layers_from_the_28th_on():
    given = {"model_type": "qwen2", "use_sliding_window": True, "num_hidden_layers": 30}
    assert facts(make_config(**given)).windows == (None,) * 28 + (4096, 4096)


def test_no_end_of_text_is_not_the_familys():
    config = make_config(bos_token_id=None, eos_token_id=None)
    assert (config.bos_token_id, config.eos_token_id) == (None, ())
    assert read_config(write_config(config)) == config


def test_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_config().vocab_size = 3


def test_a_family_decides_its_biases():
    llama = make_config(attention_bias=True, mlp_bias=True)
    assert facts(llama).biases == (True, True, True)
    mistral = make_config(model_type="mistral", attention_bias=True)
    assert facts(mistral).biases == (False, False, False)
    qwen2 = make_config(model_type="qwen2")
    assert facts(qwen2).biases == (True, False, False)
    starcoder2 = make_config(model_type="starcoder2", hidden_act=None, use_bias=False)
    assert facts(starcoder2).biases == (False, False, False)


def test_gpt2_is_read_under_its_own_keys_and_defaults():
    gpt2 = read_config(
        {"model_type": "gpt2", "vocab_size": 9, "n_embd": 8, "n_layer": 3, "n_head": 2}
    )
    assert (gpt2.hidden_size, gpt2.num_hidden_layers, facts(gpt2).num_attention_heads) == (8, 3, 2)
    assert (facts(gpt2).intermediate_size, gpt2.max_position_embeddings) == (32, 1024)
    assert gpt2.norm == LayerNormSpec(1e-5)
    assert (facts(gpt2).activation, facts(gpt2).rope) == ("gelu", None)
    assert gpt2.tie_word_embeddings
    assert read_config(write_config(gpt2)) == gpt2


@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        ({"model_type": "mistral", "sliding_window": 7}, (7, 7)),
        ({"model_type": "mistral", "sliding_window": None}, (None, None)),
        ({"model_type": "llama", "sliding_window": 7}, (None, None)),
        ({"model_type": "qwen2", "sliding_window": 7}, (None, None)),
        (
            {"model_type": "qwen2", "sliding_window": 7, "use_sliding_window": False},
            (None, None),
        ),
        (
            {
                "model_type": "qwen2",
                "sliding_window": 7,
                "use_sliding_window": True,
                "max_window_layers": 1,
            },
            (None, 7),
        ),
        (
            {
                "model_type": "qwen2",
                "sliding_window": 7,
                "use_sliding_window": True,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            (7, None),
        ),
    ],
)
def test_sliding_windows(changes, windows):
    assert facts(make_config(**changes)).windows == windows


ROPE = {
    "linear": {"rope_type": "linear", "factor": 2.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "llama3": LLAMA3,
    "yarn": YARN | {"mscale": 0.7, "mscale_all_dim": 0.5, "truncate": False, "beta_fast": 16.0},
    "attention_factor": YARN | {"attention_factor": 1.2},
    "longrope": LONGROPE | {"factor": 4.0, "attention_factor": 1.1},
}


@pytest.mark.parametrize("name", list(ROPE))
def test_both_spellings_of_rope_mean_the_same(name):
    plain = without("rope_theta")
    old = read_config(plain | {"rope_theta": 500.0, "rope_scaling": ROPE[name]})
    new = read_config(plain | {"rope_parameters": {"rope_theta": 500.0} | ROPE[name]})
    first = {"type" if k == "rope_type" else k: v for k, v in ROPE[name].items()}
    oldest = read_config(plain | {"rope_theta": 500.0, "rope_scaling": first})
    assert old == new == oldest
    assert facts(old).rope.rope_theta == 500.0
    assert facts(old).rope.rope_type == ROPE[name]["rope_type"]
    for key, value in ROPE[name].items():
        assert getattr(facts(old).rope, key) == (tuple(value) if type(value) is list else value)


def test_rope_scaling_wins_over_rope_parameters():
    plain = without("rope_theta")
    both = {
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0},
    }
    rope = facts(read_config(plain | both)).rope
    assert (rope.factor, rope.rope_theta) == (2.0, 10000.0)
    transformers = pytest.importorskip("transformers", reason="transformers is the reference here")
    theirs = transformers.AutoConfig.for_model(**(plain | both)).rope_parameters
    assert (theirs["factor"], theirs["rope_theta"]) == (2.0, 10000.0)


def test_trained_length_defaults_to_the_context():
    config = make_config(rope_scaling={"rope_type": "yarn", "factor": 4.0})
    assert facts(config).rope.original_max_position_embeddings == BASE["max_position_embeddings"]


@pytest.mark.parametrize("given", [None, 2, [2, 3], -1, []])
def test_token_ids_are_one_many_or_none(given):
    config = make_config(eos_token_id=given, bos_token_id=1, pad_token_id=given)
    expected = (
        {None: (), 2: (2,), -1: ()}.get(given, ()) if not isinstance(given, list) else tuple(given)
    )
    assert config.eos_token_id == expected
    assert config.pad_token_id == (expected[0] if expected else None)
    assert config.bos_token_id == 1


@pytest.mark.parametrize("name", list(VARIANTS))
def test_to_hf_round_trips(name):
    config = make_config(**VARIANTS[name], eos_token_id=[2, 3], bos_token_id=1)
    assert read_config(write_config(config)) == config


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"model_type": "bert"},
            "model_type is one of the .*, such as llama, mistral, qwen2, qwen3; got 'bert'$",
        ),
        ({"model_type": "qwen33"}, "got 'qwen33'; did you mean qwen3?"),
        ({"model_type": None}, "got None"),
        ({"model_type": ["llama"]}, r"got \['llama'\]"),
        ({"hidden_act": "mish"}, "hidden_act of an MLP with a gate is one of silu, .* got 'mish'"),
        (
            {"model_type": "gpt2", "activation_function": "silu"},
            "an MLP without a gate is one of gelu_pytorch_tanh, .* got 'silu'",
        ),
        ({"vocab_size": "50"}, "vocab_size is a positive integer; got '50'"),
        ({"vocab_size": 0}, "vocab_size is a positive integer; got 0"),
        ({"vocab_size": True}, "got True"),
        ({"hidden_size": 16.0}, "hidden_size is a positive integer; got 16.0"),
        ({"num_hidden_layers": -1}, "num_hidden_layers"),
        ({"num_key_value_heads": 3}, "multiple of num_key_value_heads; got 4 and 3"),
        ({"head_dim": 5}, "head_dim is even"),
        ({"rms_norm_eps": 0}, "rms_norm_eps is a positive number; got 0"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"rms_norm_eps": "1e-5"}, "rms_norm_eps"),
        ({"attention_bias": 1}, "attention_bias is true or false; got 1"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"eos_token_id": "2"}, "eos_token_id is a token id"),
        ({"eos_token_id": [2, "3"]}, "eos_token_id"),
        ({"rope_theta": -1.0}, "rope_theta"),
        ({"rope_theta": 1.0}, "rope_theta is above 1; got 1.0"),
        ({"rope_scaling": "yarn"}, "rope_parameters is an object; got 'yarn'"),
        ({"rope_scaling": {"rope_type": "su"}}, "rope_type is one of .* got 'su'"),
        (
            {"rope_scaling": {"rope_type": "longrope"}},
            "short_factor of longrope is a list of 2 num",
        ),
        ({"rope_scaling": LONGROPE | {"long_factor": [1.0]}}, r"long_factor .*; got \[1.0\]"),
        (
            {"rope_scaling": LONGROPE | {"long_factor": [1.0, 0]}},
            "long_factor is a positive number",
        ),
        ({"rope_scaling": LONGROPE | {"original_max_position_embeddings": 1}}, "is above 1; got 1"),
        ({"rope_scaling": {"rope_type": ["yarn"]}}, "rope_type"),
        ({"rope_scaling": {"rope_type": "linear"}}, "needs a factor"),
        ({"rope_scaling": {"rope_type": "linear", "factor": "2"}}, "factor is a positive number"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"rope_parameters": {"partial_rotary_factor": "half"}}, "partial_rotary_factor"),
        ({"rope_scaling": LLAMA3 | {"high_freq_factor": 0.5}}, "high_freq_factor"),
        ({"rope_scaling": YARN | {"original_max_position_embeddings": 1.5}}, "original_max"),
        ({"head_dim": 2, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "dynamic"),
        ({"model_type": "mistral", "sliding_window": 0}, "sliding_window"),
        ({"num_hidden_layers": 10_001}, "num_hidden_layers is at most 10000; got 10001"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers is at most 10000"),
        ({"vocab_size": 2**31}, "vocab_size is at most 2147483647; got 2147483648"),
        ({"vocab_size": 10**4000}, "vocab_size is at most 2147483647"),
        ({"rope_theta": 10**400}, "rope_theta is a positive number"),
        ({"rms_norm_eps": 1e-300}, "rms_norm_eps is a positive number; got 1e-300"),
        ({"rope_scaling": YARN | {"original_max_position_embeddings": 10**300}}, "original_max"),
        ({"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 10**300}}, "original_max"),
        ({"eos_token_id": [2, 10**4000]}, "eos_token_id is a token id"),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 5.0}, "rope_theta": 7.0}},
            r"all layers share their RoPE here; got one each for \['full_attention'\]",
        ),
        ({"layer_types": ["full_attention", "chunked"]}, "layer_types are .* got 'chunked'"),
        ({"layer_types": ["full_attention", []]}, r"layer_types are .* got \[\]"),
        (
            {"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": None},
            "max_window_layers is a number of layers; got None",
        ),
        (
            {"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": "x"},
            "max_window_layers is a number of layers; got 'x'",
        ),
        ({"model_type": "qwen2", "use_sliding_window": "no"}, "use_sliding_window is true or"),
        (
            {
                "model_type": "qwen2",
                "use_sliding_window": True,
                "sliding_window": 4,
                "layer_types": ["full_attention"],
            },
            "layer_types names each of the 2 layers",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(changes, said):
    with pytest.raises(ConfigError, match=said) as error:
        make_config(**changes)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "num_hidden_layers"])
def test_a_missing_field_is_named(key):
    with pytest.raises(ConfigError, match=f"must give {key}"):
        read_config(without(key))


@pytest.mark.parametrize(
    ("positions", "rope", "context"),
    [
        (64, None, 64),
        (64, {"rope_type": "dynamic", "factor": 2.0}, 128),
        (64, YARN | {"factor": 8.0}, 128),
        (64, LLAMA3, 64),
        (64, LONGROPE, 64),
        (64, LONGROPE | {"factor": 16.0}, 128),
        (64, {"type": "linear", "factor": 4.0}, 256),
        (4096, {"type": "linear", "factor": 4.0}, 16384),  # of the trained length
        (16384, {"type": "linear", "factor": 4.0}, 16384),  # of the stretched one
        (2048, {"type": "linear", "factor": 2.5}, 5120),
        (4096, {"type": "linear", "factor": 4.0, "original_max_position_embeddings": 4096}, 16384),
        (16384, {"type": "linear", "factor": 4.0, "original_max_position_embeddings": 4096}, 16384),
        (16384, {"type": "dynamic", "factor": 4.0}, 65536),
        (
            16384,
            {"type": "dynamic", "factor": 4.0, "original_max_position_embeddings": 4096},
            16384,
        ),
        (4096, {"type": "yarn", "factor": 4.0}, 16384),
        (16384, {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}, 16384),
        (64, {"type": "linear", "factor": 0.5}, 64),
    ],
)
def test_context_length_counts_stretched_rope(positions, rope, context, caplog):
    config = make_config(max_position_embeddings=positions, rope_scaling=rope)
    assert config.context_length == context
    assert read_config(write_config(config)) == config
    assert not caplog.records


def test_a_context_may_be_asked_for(caplog):
    config = make_config()
    assert config.with_context(8).context_length == 8
    assert not caplog.records
    assert config.with_context(100).context_length == 100
    assert "a context of 100 is above the 64 positions" in caplog.text
    assert write_config(config.with_context(8)) == write_config(config)
    with pytest.raises(RequestError, match=r"at most the 64 positions .* learned; got 65"):
        make_config(model_type="gpt2").with_context(65)
    for wrong in (0, -1, True, 8.0, "8"):
        with pytest.raises(RequestError, match="a context must be a positive number of tokens"):
            config.with_context(wrong)


def test_what_a_type_of_rope_does_not_read_is_not_kept():
    unread = {"rope_type": "default", "factor": 8.0, "low_freq_factor": "low"}
    assert make_config(rope_scaling=unread) == make_config()


@pytest.mark.parametrize("key", ["partial_rotary_factor", "rope_scaling"])
@pytest.mark.parametrize("part", [0, 0.5, 2.0, "1"])
def test_rope_turns_whole_heads(key, part):
    nested = {"rope_type": "default", "partial_rotary_factor": part}
    with pytest.raises(ConfigError, match="partial_rotary_factor"):
        make_config(**{key: nested if key == "rope_scaling" else part})


def test_null_for_the_norms_epsilon_is_the_familys_own():
    assert facts(make_config(model_type="gpt2", layer_norm_epsilon=None)).norm_eps == 1e-5
    assert facts(make_config(rms_norm_eps=None)).norm_eps == 1e-6
