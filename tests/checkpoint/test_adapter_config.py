"""Which adapters are plain LoRA, and what a pattern says of a module."""

import json
import time

import pytest

from xplm.checkpoint.adapter_config import INERT, KINDS, read_adapter_config
from xplm.errors import CheckpointError

Q = "model.layers.0.self_attn.q_proj"
PLAIN = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8}


def read(tmp_path, **fields):
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(PLAIN | fields))
    return read_adapter_config(path)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3'"),
        ({"peft_type": None}, "peft_type None"),
        ({"task_type": "SEQ_CLS"}, "task_type 'SEQ_CLS'"),
        ({"init_lora_weights": "pissa"}, "PiSSA, which changes the model's own weights"),
        ({"init_lora_weights": "pissa_niter_16"}, "PiSSA"),
        ({"init_lora_weights": "OLoRA"}, "OLoRA"),
        ({"init_lora_weights": "corda"}, "CorDA"),
        ({"init_lora_weights": "lora_ga"}, "LoRA-GA"),
        ({"init_lora_weights": "loftq"}, "LoftQ"),
        ({"init_lora_weights": "news"}, "init_lora_weights 'news'"),
        ({"init_lora_weights": 3}, "init_lora_weights 3"),
        ({"use_dora": True}, r"DoRA \(use_dora\)"),
        ({"alora_invocation_tokens": [1]}, r"aLoRA.*\(alora_invocation_tokens\)"),
        ({"trainable_token_indices": [1]}, "LoRA with trainable tokens"),
        ({"enable_lora": [True]}, r"a kind that xplm does not know \(enable_lora\)"),
        *(({field: {"a": 1}}, rf"\({field}\)") for field in KINDS),
    ],
)
def test_an_adapter_of_another_kind_says_what_it_is(tmp_path, fields, kind):
    with pytest.raises(CheckpointError, match=f"must be plain LoRA; .* is .*{kind}.*; merge it"):
        read(tmp_path, **fields)


@pytest.mark.parametrize("init", [True, False, None, "gaussian", "eva", "orthogonal", "mica"])
def test_how_a_plain_adapter_was_begun_does_not_matter(tmp_path, init):
    neutral = dict.fromkeys(KINDS) | {"use_dora": False, "layer_replication": []}
    inert = {field: {"any": 1} for field in INERT}
    config = read(tmp_path, init_lora_weights=init, news=None, **neutral, **inert)
    assert config.rank_and_factor(Q) == (4, 2.0)


PATTERNS = [
    ({"q_proj": 2}, 2),
    ({"self_attn.q_proj": 2}, 2),
    ({"k_proj": 2}, 4),
    ({"proj": 2}, 4),  # a name ends after a dot
    ({".*proj": 2}, 2),
    ({"^model.layers.0.self_attn.q_proj": 2}, 2),
    ({"^layers.0.self_attn.q_proj": 2}, 4),
    ({r".*\.[0-1]\..*(q|v)_proj": 2}, 2),
    ({r".*\.[2-9]\..*(q|v)_proj": 2}, 4),
    ({"k_proj|q_proj": 2}, 2),
    ({"(?!k)._proj": 2, "q_proj": 3}, 2),  # the first that matches
    ({"q_proj$": 2}, 2),
]
"""Patterns, and the rank that each gives Q; 4 where it does not match."""


@pytest.mark.parametrize(("pattern", "rank"), PATTERNS)
def test_a_pattern_is_a_regular_expression_of_a_names_end(tmp_path, pattern, rank):
    assert read(tmp_path, rank_pattern=pattern).rank_and_factor(Q) == (rank, 8 / rank)
    alpha = read(tmp_path, alpha_pattern=pattern).rank_and_factor(Q)[1] * 4
    assert alpha == (8 if rank == 4 else rank)


@pytest.mark.parametrize(
    "expression",
    [
        "(a+)+",
        "(a|a)*",
        "(.|.)" * 40,
        ".*" * 8,
        "a?" * 40 + "a" * 40,
        "(" * 500 + ")" * 500 + "x" * 1000,
        "(",
        "[",
        "a{2}{3}",
        "(?P<x>a)(?P<x>b)",
    ],
)
def test_a_pattern_that_is_not_valid_or_takes_long_is_refused_at_once(tmp_path, expression):
    begin = time.process_time()
    with pytest.raises(CheckpointError, match="rank_pattern must hold regular expressions"):
        read(tmp_path, rank_pattern={expression: 1})
    with pytest.raises(CheckpointError, match="target_modules must hold regular expressions"):
        read(tmp_path, target_modules=expression)
    assert time.process_time() - begin < 1


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["q_proj"], True),
        (["self_attn.q_proj", "x"], True),
        (["proj"], False),
        (["q.proj"], False),
        ("all-linear", True),
        (None, True),
        (".*q_proj", True),
        ("q_proj", False),  # one expression is of the whole name
        (r"model\.layers\.\d+\.self_attn\.(q|k)_proj", True),
    ],
)
def test_target_modules_say_which_modules_have_an_adapter(tmp_path, targets, expected):
    assert read(tmp_path, target_modules=targets).is_target(Q) is expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"exclude_modules": ["q_proj"]}, False),
        ({"exclude_modules": ["k_proj"]}, True),
        ({"exclude_modules": r".*\.0\..*"}, False),
        ({"exclude_modules": "q_proj"}, True),  # one expression is of the whole name
        ({"layers_to_transform": 0}, True),
        ({"layers_to_transform": [1, 0]}, True),
        ({"layers_to_transform": [1]}, False),
        ({"layers_to_transform": []}, True),
    ],
)
def test_modules_may_be_left_out_by_name_or_by_layer(tmp_path, fields, expected):
    peft = pytest.importorskip("peft", reason="the oracle for adapters is PEFT")
    fields = {"target_modules": ["q_proj"]} | fields
    assert read(tmp_path, **fields).is_target(Q) is expected
    of_peft = peft.tuners.tuners_utils.check_target_module_exists(peft.LoraConfig(**fields), Q)
    assert bool(of_peft) is expected


@pytest.mark.parametrize("layers", ["0", [True], {"a": 1}])
def test_layers_of_another_type_are_refused(tmp_path, layers):
    with pytest.raises(CheckpointError, match="layers_to_transform must be numbers of layers"):
        read(tmp_path, layers_to_transform=layers)


@pytest.mark.parametrize("pattern", [["q_proj"], "q_proj", 3])
def test_a_pattern_of_another_type_is_refused(tmp_path, pattern):
    with pytest.raises(CheckpointError, match="alpha_pattern must give numbers by regular"):
        read(tmp_path, alpha_pattern=pattern)


@pytest.mark.parametrize("targets", [3, [3], {"a": 1}])
def test_target_modules_of_another_type_are_refused(tmp_path, targets):
    with pytest.raises(CheckpointError, match="target_modules must be names of modules"):
        read(tmp_path, target_modules=targets)
