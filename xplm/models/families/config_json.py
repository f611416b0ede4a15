"""A decoder's configuration from Hugging Face's config.json, and back."""

from collections.abc import Mapping
from reprlib import repr as shown  # a value of any length, cut short
from typing import Any

from xplm.config import DecoderConfig
from xplm.errors import ConfigError, did_you_mean
from xplm.models.families.activations import write_activation
from xplm.models.families.family import Family
from xplm.models.families.fields import Fields
from xplm.models.families.keys import check_keys
from xplm.models.families.table import FAMILIES

MAX_LAYERS = 10_000
SOME = 4  # families in a message
MAX_SHOWN = 40  # characters of a name that is looked up
DEFAULT_POSITIONS = 2048

DESCRIBED = ("blocks", "embedding_scale", "logit_scale", "logit_cap")
"""Facts of a decoder that its family's config.json may have no keys for."""


def read_config(hf: Mapping[str, Any]) -> DecoderConfig:
    """Read the contents of a config.json.

    Args:
        hf: the parsed JSON object, with RoPE spelled as `rope_theta` + `rope_scaling` or as `rope_parameters`.

    Raises:
        ConfigError: a field is missing, has the wrong type, contradicts another, or is not supported.
    """
    model_type = hf.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        guess = did_you_mean(str(model_type)[:MAX_SHOWN], FAMILIES)
        some = ", ".join(list(FAMILIES)[:SOME])
        raise ConfigError(
            f"model_type is one of the {len(FAMILIES)} of docs/families.md, such as {some}; "
            f"got {shown(model_type)}{guess}"
        )
    family = FAMILIES[model_type]
    hf = family.respell(hf)
    check_keys(hf, family)
    fields = _in_our_spelling(hf, family)
    hidden_size = fields.integer("hidden_size")
    fields.integer("num_attention_heads")
    fields.integer("num_hidden_layers", at_most=MAX_LAYERS)

    blocks = family.read_blocks(fields)
    for block in blocks:
        heads, groups = block.mixer.num_heads, block.mixer.num_key_value_heads
        if heads % groups:
            raise ConfigError(
                f"num_attention_heads is a multiple of num_key_value_heads; got {heads} and {groups}"
            )
    return DecoderConfig(
        model_type=model_type,
        vocab_size=fields.integer("vocab_size"),
        hidden_size=hidden_size,
        max_position_embeddings=fields.integer("max_position_embeddings"),
        blocks=blocks,
        norm=blocks[-1].first_norm,
        has_learned_positions=family.has_learned_positions,
        position_offset=family.position_offset,
        tie_word_embeddings=fields.flag("tie_word_embeddings"),
        head_bias=family.has_head_bias,
        initializer_range=fields.number("initializer_range", 0.02),
        bos_token_id=fields.token_id("bos_token_id"),
        eos_token_id=fields.token_ids("eos_token_id"),
        pad_token_id=fields.token_id("pad_token_id"),
        **family.read_scales(fields),
    )


def write_config(config: DecoderConfig) -> dict[str, Any]:
    """The config.json that transformers reads this model with.

    Raises:
        ConfigError: the family's config.json has no keys for what the blocks or the scales are.
    """
    family, block = FAMILIES[config.model_type], config.blocks[0]
    eos = list(config.eos_token_id)
    hf: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": config.model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": block.mlp.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": block.mixer.num_heads,
        "num_key_value_heads": block.mixer.num_key_value_heads,
        "head_dim": block.mixer.head_dim,
        "max_position_embeddings": config.max_position_embeddings,
        "hidden_act": write_activation(block.mlp.activation, family.hidden_act),
        family.norm_eps_key: block.first_norm.eps,
        "tie_word_embeddings": config.tie_word_embeddings,
        "initializer_range": config.initializer_range,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": eos[0] if len(eos) == 1 else eos or None,
        "pad_token_id": config.pad_token_id,
    }
    hf |= family.write_blocks(config)
    spelt = {family.spelling.get(key, key): value for key, value in hf.items()}
    written = {key: spelt[key] for key in spelt if key in ("architectures", *family.keys)}
    back = read_config(written)
    if lost := [name for name in DESCRIBED if getattr(back, name) != getattr(config, name)]:
        raise ConfigError(
            f"the {' and '.join(lost)} of a {config.model_type} must be those that its config.json can describe; "
            "these are others"
        )
    return written


def _in_our_spelling(hf: Mapping[str, Any], family: Family) -> Fields:
    """The keys under our names, and the family's defaults where they are left out."""
    given = {**family.defaults, **_without_aliases(hf, family)}
    given |= {ours: given.get(theirs) for ours, theirs in family.spelling.items()}
    if given.get("hidden_act") is None:
        given["hidden_act"] = family.hidden_act
    if given.get("max_position_embeddings") is None:
        given["max_position_embeddings"] = DEFAULT_POSITIONS
    return Fields(given)


def _without_aliases(hf: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """Keys that transformers takes for the family's, under the family's names."""
    own = dict(hf)
    for alias in family.aliases:
        key = family.spelling[alias]
        value = own.pop(alias, None)
        if value is None:
            continue
        if own.get(key) is None:
            own[key] = value
        elif own[key] != value:
            raise ConfigError(f"{alias} is {key} here; got {shown(value)} and {shown(own[key])}")
    return own
