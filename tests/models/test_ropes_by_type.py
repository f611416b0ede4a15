"""RoPE of full and of sliding layers in a config.json, in both spellings."""

import pytest

from xplm.errors import ConfigError
from xplm.models.families.fields import Fields
from xplm.models.families.rope import read_ropes_by_type, write_ropes_by_type
from xplm.models.families.windows import FULL, SLIDING
from xplm.rope_scaling import unread_rope_keys
from xplm.specs import RopeSpec

LINEAR = {"rope_type": "linear", "factor": 8.0}


def read(**hf):
    fields = Fields({"max_position_embeddings": 64, **hf})
    ropes = read_ropes_by_type(
        fields, 8, full_theta=fields.number("rope_theta", 1e6), sliding_theta=1e4
    )
    return ropes[FULL], ropes[SLIDING]


def rope(**facts):
    return RopeSpec(**facts, dim=8, max_position_embeddings=64)


def test_each_type_has_an_object_of_its_own():
    given = {FULL: LINEAR | {"rope_theta": 5e5}, SLIDING: {"rope_type": "default"}}
    assert read(rope_parameters=given) == (
        rope(rope_type="linear", factor=8.0, rope_theta=5e5),
        rope(rope_theta=1e4),
    )
    assert read(rope_parameters={SLIDING: {"rope_theta": 7.0}}) == (
        rope(rope_theta=1e6),
        rope(rope_theta=7.0),
    )


def test_the_older_spelling_is_of_the_full_layers():
    scaled = rope(rope_type="linear", factor=8.0, rope_theta=5e5)
    assert read(rope_theta=5e5, rope_scaling=LINEAR) == (scaled, rope(rope_theta=1e4))
    assert read() == (rope(rope_theta=1e6), rope(rope_theta=1e4))
    both = {FULL: {"rope_theta": 5e5}, SLIDING: {"rope_theta": 3.0}}
    assert read(rope_parameters=both, rope_scaling=LINEAR) == (scaled, rope(rope_theta=3.0))


def test_what_is_written_is_read_back():
    ropes = rope(rope_type="linear", factor=8.0, rope_theta=5e5), rope(rope_theta=1e4)
    assert read(**write_ropes_by_type(*ropes)) == ropes


def test_parameters_for_all_layers_are_refused():
    with pytest.raises(
        ConfigError, match="object for full_attention and one for sliding_attention"
    ):
        read(rope_parameters={"rope_theta": 5e5})
    with pytest.raises(ConfigError, match="rope_parameters is an object; got 3"):
        read(rope_parameters={FULL: 3})


def test_keys_that_a_type_does_not_read_are_named_with_it():
    given = {FULL: LINEAR | {"beta_fast": 2.0}, SLIDING: {"rope_theta": 3.0}}
    unread = unread_rope_keys({"rope_parameters": given})
    assert unread == ["rope_parameters.full_attention.beta_fast"]
