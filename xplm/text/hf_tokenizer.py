"""The tokenizer files of a Hugging Face directory.

    tokenizer.json            the pipeline: normaliser, pre-tokeniser, vocabulary, merges, post-processor, decoder
    tokenizer_config.json     the special tokens by name; the chat template
    special_tokens_map.json   the special tokens again, as older versions wrote them; tokenizer_config.json wins
    chat_template.jinja       the chat template again, as newer versions write it; it wins
    generation_config.json    the ids that end a text, which may be more than the one `eos_token`

Only the first must be there. Truncation and padding, which tokenizer.json can hold, are turned off: neither belongs
to a model's prompt.
"""

import json
import logging
import os
from pathlib import Path
from typing import Any

import tokenizers

from xplm.checkpoint.files import replacing
from xplm.checkpoint.untrusted import (
    MAX_LARGE_BYTES,
    MAX_SMALL_BYTES,
    read_json_object,
    read_text,
)
from xplm.errors import TokenizerError
from xplm.text.faults import library_faults
from xplm.text.parts import SPECIAL_TOKEN_NAMES, TokenizerParts, unique_ids

MAX_ID = 2**31 - 1
PROBE = "a b\U0010fffd"  # the last character is in no vocabulary
_STRICT = ("bos_token", "eos_token")  # a generation cannot do without those that a model names

_log = logging.getLogger(__name__)


def read_directory(directory: Path) -> TokenizerParts:
    """Read the tokenizer of a directory.

    Raises:
        TokenizerError: a file is missing, malformed, or contradicts another.
    """
    pipeline = _read_pipeline(directory / "tokenizer.json")
    config = _read_object(directory / "tokenizer_config.json")
    named = _read_object(directory / "special_tokens_map.json") | config
    generation = _read_object(directory / "generation_config.json")

    special_tokens = {}
    for name in SPECIAL_TOKEN_NAMES:
        token = named.get(name)
        text = token.get("content") if isinstance(token, dict) else token
        if text is None:
            continue
        if isinstance(text, str) and pipeline.token_to_id(text) is None and name not in _STRICT:
            _log.warning("no %s: tokenizer.json has no token %.80r", name, text)
            continue
        if not isinstance(text, str) or pipeline.token_to_id(text) is None:
            raise TokenizerError(
                f"{name} must be a token of tokenizer.json, got {text!r} in {directory}: "
                "make the two files agree"
            )
        special_tokens[name] = text

    eos = generation.get("eos_token_id")
    ends = [i for i in (eos if isinstance(eos, list) else [eos]) if i is not None]
    for token_id in ends:
        if type(token_id) is not int or not 0 <= token_id <= MAX_ID:
            raise TokenizerError(
                f"eos_token_id must be token ids from 0, got {token_id!r} in {directory}/generation_config.json: "
                "correct it"
            )
    if "eos_token" in special_tokens:
        ends.insert(0, pipeline.token_to_id(special_tokens["eos_token"]))
    template = _chat_template(directory, config.get("chat_template"))
    return TokenizerParts(pipeline, special_tokens, unique_ids(ends), template)


def write_directory(directory: Path, parts: TokenizerParts) -> None:
    """Write the files that `read_directory` and transformers read, each replaced as a whole.

    Raises:
        OSError: the directory is not there or not writable.
    """
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # the class that takes tokenizer.json as it is
        "clean_up_tokenization_spaces": False,
        **parts.special_tokens,
    }
    if parts.chat_template is not None:
        config["chat_template"] = parts.chat_template
    generation: dict[str, Any] = {"eos_token_id": list(parts.eos_token_ids)}
    for name in ("bos_token", "pad_token"):
        if name in parts.special_tokens:
            generation[f"{name}_id"] = parts.pipeline.token_to_id(parts.special_tokens[name])

    _replace_text(directory / "tokenizer.json", parts.pipeline.to_str(pretty=True))
    _replace_text(directory / "tokenizer_config.json", _to_json(config))
    _replace_text(directory / "generation_config.json", _to_json(generation))


def _read_pipeline(path: Path) -> tokenizers.Tokenizer:
    text = _read_text(path, MAX_LARGE_BYTES)
    if text is None:
        raise TokenizerError(
            f"a Hugging Face directory must hold tokenizer.json, and {path.parent} does not: "
            "save the tokenizer there with AutoTokenizer.save_pretrained of transformers"
        )
    with library_faults(f"{path} must be a tokenizer of the tokenizers library"):
        pipeline = tokenizers.Tokenizer.from_str(text)
        pipeline.no_truncation()
        pipeline.no_padding()
        for probe in ("", PROBE):  # much that contradicts itself shows here
            pipeline.decode(pipeline.encode(probe).ids)
    return pipeline


def _chat_template(directory: Path, configured: Any) -> str | None:
    separate = _read_text(directory / "chat_template.jinja")
    if separate is not None:
        return separate
    templates = configured
    if not isinstance(configured, list):
        templates = [{"name": "default", "template": configured}]
    if not all(map(_is_named_template, templates)):
        raise TokenizerError(
            'chat_template must be text, or a list of {"name": text, "template": text}, '
            f"got {configured!r:.80} in {directory}/tokenizer_config.json"
        )
    return {template["name"]: template["template"] for template in templates}.get("default")


def _is_named_template(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("name"), str)
        and isinstance(value.get("template"), str | None)
        and "template" in value
    )


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object; empty when the file is not there."""
    return read_json_object(path, TokenizerError) if os.path.lexists(path) else {}


def _read_text(path: Path, at_most: int = MAX_SMALL_BYTES) -> str | None:
    """A file's text; None when the file is not there."""
    if not os.path.lexists(path):
        return None
    try:
        return read_text(path, at_most)
    except OSError as error:
        raise TokenizerError(f"{path} must be readable; got: {error.strerror}") from error
    except ValueError as error:
        raise TokenizerError(f"{path} must be a UTF-8 text; got: {error}") from error


def _to_json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def _replace_text(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())
