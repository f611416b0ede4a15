"""What a tokenizer is made of, whichever file format it was read from."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import tokenizers
from tokenizers import models

SPECIAL_TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "pad_token")
"""Names that a GGUF file gives to special tokens."""

TOKEN_NAMES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
"""Names that every Hugging Face tokenizer may give to special tokens; those of a model's own come after."""


class TokenizerParts(NamedTuple):
    """The fields of `xplm.text.tokenizer.Tokenizer`."""

    pipeline: tokenizers.Tokenizer  # does the work; without truncation and padding
    special_tokens: Mapping[str, str]  # text of special tokens, by name
    eos_token_ids: tuple[int, ...]  # every id that ends a text, the one of `eos_token` first
    chat_template: str | None  # jinja2 source
    named_templates: Mapping[str, str] = {}  # further chat templates by name, such as "tool_use"


def unique_ids(ids: Iterable[Any]) -> tuple[int, ...]:
    """The integers among `ids`, each once, in order."""
    return tuple(dict.fromkeys(i for i in ids if isinstance(i, int)))


def no_pipeline() -> tokenizers.Tokenizer:
    """The pipeline of a model without a tokenizer: it has no tokens, and any ids are an empty text."""
    return tokenizers.Tokenizer(models.BPE())


def has_tokens(pipeline: tokenizers.Tokenizer) -> bool:
    """Whether a pipeline is that of a tokenizer."""
    return int(pipeline.get_vocab_size(with_added_tokens=True)) > 0
