"""Models of text and pictures, of which the text model is one of a family here.

Their config.json has the text model's under "text_config", and their files its tensors under a prefix:

    language_model.model.layers.0 ...          model.layers.0 ...
    model.language_model.layers.0 ...          model.layers.0 ...
    language_model.lm_head                     lm_head

Without a picture, such a model computes what its text model does. That holds of the wrappers below; others change the
text model's mask or positions, and are refused.

Source: the configuration classes of transformers 5.23, and its renamings for "llava".
"""

import logging
import re
from collections.abc import Collection, Mapping
from reprlib import repr as shown  # a value of any length, cut short
from typing import Any, NamedTuple

from xplm.errors import ConfigError
from xplm.models.families.keys import QUANTIZATION

TEXT = "text_config"
_TIE = "tie_word_embeddings"
_SHARED = ("bos_token_id", "eos_token_id", "pad_token_id")
LM_HEAD = "lm_head.weight"

_log = logging.getLogger(__name__)


class Wrapper(NamedTuple):
    """What a text_config leaves out."""

    defaults: Mapping[str, Any]


WRAPPERS: Mapping[str, Wrapper] = {
    "gemma3": Wrapper(
        {
            "model_type": "gemma3_text",
            "vocab_size": 262_208,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "max_position_embeddings": 131_072,
            "bos_token_id": 2,
            "eos_token_id": 1,
            "pad_token_id": 0,
        }
    ),
    "mistral3": Wrapper({"model_type": "mistral"}),
}
"""Wrappers by their model_type."""


def is_wrapped(hf: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a wrapper."""
    return isinstance(hf.get("model_type"), str) and hf["model_type"] in WRAPPERS


def text_config(hf: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config.json of the text model of a wrapper; any other as it is.

    Raises:
        ConfigError: text_config is not there, or no object.
    """
    if not is_wrapped(hf):
        return hf
    given = hf.get(TEXT)
    if not isinstance(given, Mapping):
        raise ConfigError(f"{TEXT} of a {hf['model_type']} is an object; got {shown(given)}")
    shared = {key: hf[key] for key in (*_SHARED, *QUANTIZATION) if hf.get(key) is not None}
    own = {key: value for key, value in given.items() if value is not None or key not in _SHARED}
    tie = {_TIE: hf[_TIE]} if _TIE in hf else {}
    return {**WRAPPERS[hf["model_type"]].defaults, **tie, **shared, **own}


def text_names(hf: Mapping[str, Any], names: Collection[str]) -> dict[str, str]:
    """Names of tensors in the files of a model, by the names that its text model has for them.

    Says how many are left out.
    """
    if not is_wrapped(hf):
        return {name: name for name in names}
    found = {}
    for name in names:
        inner = re.sub(r"^(?:model\.)?language_model\.(?:model\.)?", "", name)
        if LM_HEAD in (name, inner):
            found[LM_HEAD] = name
        elif inner != name:
            found[f"model.{inner}"] = name
    _log.warning(
        "this %s is read as its text model: pictures are left out, and %d tensors of theirs are not read",
        hf["model_type"],
        len(names) - len(found),
    )
    return found
