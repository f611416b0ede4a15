"""The keys of every family against transformers' configuration classes."""

import json
from dataclasses import fields

import pytest

from xplm.models.families.config_json import read_config
from xplm.models.families.keys import FIXED, INERT
from xplm.models.families.table import FAMILIES


@pytest.fixture
def config_class(transformers, model_type):
    return type(transformers.AutoConfig.for_model(model_type))


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_key_of_transformers_is_known(config_class, model_type):
    family = FAMILIES[model_type]
    known = {*family.keys, *family.aliases, *family.inert, *INERT, *FIXED}
    assert {field.name for field in fields(config_class)} <= known
    assert set(config_class().to_dict()) <= known
    assert set(config_class.attribute_map) == set(family.aliases)
    assert config_class.attribute_map.items() <= family.spelling.items()


ASKED_FOR = {"deepseek_v2": {"num_experts_per_tok": 6}, "glm4_moe": {"head_dim": 128}}
"""What a config.json must give: transformers' defaults are none, or rotate half of 42 features."""


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_config_as_transformers_writes_it_gives_no_warning(
    config_class, model_type, tmp_path, caplog
):
    config = config_class(**ASKED_FOR.get(model_type, {}))
    config.save_pretrained(tmp_path)
    read_config(json.loads((tmp_path / "config.json").read_text()))
    read_config(json.loads(config.to_json_string(use_diff=False)))
    assert not [record for record in caplog.records if record.name == "xplm.models.families.keys"]


def test_what_concerns_sampling_is_known_to_be_inert(transformers):
    assert set(transformers.GenerationConfig._get_default_generation_params()) <= INERT
