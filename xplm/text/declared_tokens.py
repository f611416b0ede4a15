"""Tokens that the files beside tokenizer.json declare, added to the pipeline as transformers adds them.

    tokenizer_config.json     tokens by name ("eos_token", "image_token", ...), further special tokens, and
                              "added_tokens_decoder": tokens by id
    special_tokens_map.json   the same names, as older versions wrote them
    added_tokens.json         ids by text, as older versions wrote them

The last two are read where the first has no "added_tokens_decoder"; the second then wins over the first. Tokens that
the pipeline lacks are appended to its vocabulary: those with an id in order of their ids, then the named ones, then the
further ones. A token that any of the files calls special is special.

Source: transformers 5, tokenization_utils_base.py and tokenization_utils_tokenizers.py.
"""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from tokenizers import AddedToken

from xplm.errors import TokenizerError
from xplm.text.json_files import read_object
from xplm.text.parts import TOKEN_NAMES

REQUIRED_NAMES = ("bos_token", "eos_token")  # a generation cannot do without those that are named
_EXTRA_KEYS = ("extra_special_tokens", "additional_special_tokens")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")

_log = logging.getLogger(__name__)


class DeclaredTokens(NamedTuple):
    """Tokens that a directory's files declare."""

    named: dict[str, AddedToken]  # by name, such as "eos_token"
    extra: list[AddedToken]  # further special tokens
    numbered: dict[int, AddedToken]  # by id
    special: set[str]  # texts that any file calls special


def read_declared(directory: Path, config: Mapping[str, Any]) -> DeclaredTokens:
    """Read the tokens that a directory's files declare.

    Args:
        directory: the directory.
        config: its tokenizer_config.json.

    Raises:
        TokenizerError: a file is malformed.
    """
    legacy = read_object(directory / "special_tokens_map.json")
    numbered: dict[int, AddedToken] = {}
    settings = dict(config)
    if config.get("added_tokens_decoder") is not None:
        numbered = _numbered(config["added_tokens_decoder"], directory)
    else:
        extra = _first(config) or _first(legacy)
        settings = {k: v for k, v in (settings | legacy).items() if k not in _EXTRA_KEYS}
        settings["extra_special_tokens"] = extra

    extra = _first(settings) or []
    by_name = {key: settings.get(key) for key in TOKEN_NAMES}
    by_name |= {k: v for k, v in settings.items() if k.endswith("_token") and _is_token(v)}
    if isinstance(extra, dict):
        by_name |= extra
        extra = []
    named = {name: _token(v, directory) for name, v in by_name.items() if v is not None}
    further = [_token(value, directory) for value in _list(extra, directory)]
    if config.get("added_tokens_decoder") is None:
        special = {token.content for token in [*named.values(), *further]}
        numbered = _numbered_by_text(read_object(directory / "added_tokens.json"), special)
    return DeclaredTokens(
        named, further, numbered, _special_texts(config, legacy, numbered, directory)
    )


def add_declared(
    pipeline: tokenizers.Tokenizer, declared: DeclaredTokens, n_rows: int | None
) -> dict[str, str]:
    """Add declared tokens to a pipeline.

    Args:
        pipeline: changed in place.
        declared: the tokens.
        n_rows: ids that the model has; None where it is not known. A token beyond them is left out, with a warning.

    Returns:
        The text of each named token that the pipeline has.

    Raises:
        TokenizerError: a token's id is not the one that its file declares, or a BOS or EOS token is beyond the model.
    """
    known = pipeline.get_added_tokens_decoder()
    known_texts = {token.content for token in known.values()}
    texts = {token.content for token in declared.named.values()}
    wanted = [_named_special(token, texts) for _, token in sorted(declared.numbered.items())]
    seen = known_texts | {token.content for token in wanted}
    for token in (*declared.named.values(), *declared.extra):
        if token.content not in seen:
            seen.add(token.content)
            wanted.append(token)

    required = {declared.named[n].content: n for n in REQUIRED_NAMES if n in declared.named}
    size = pipeline.get_vocab_size(with_added_tokens=False)
    next_id = max([size, *(token_id + 1 for token_id in known)])
    added = []
    for token in wanted:
        if pipeline.token_to_id(token.content) is None:
            if n_rows is not None and next_id >= n_rows:
                _leave_out(token.content, required, n_rows)
                continue
            next_id += 1
        added.append(token)
    pipeline.add_tokens(added)
    special = {token.content for token in known.values() if token.special}
    _mark_special(pipeline, special | declared.special)

    for token_id, token in declared.numbered.items():
        found = pipeline.token_to_id(token.content)
        if found not in (None, token_id):
            raise TokenizerError(
                f"token {token.content!r:.80} must have the id that the files beside tokenizer.json declare, "
                f"{token_id}; it has {found}: make the files agree"
            )
    return {
        name: token.content
        for name, token in declared.named.items()
        if pipeline.token_to_id(token.content) is not None
    }


def _leave_out(text: str, required: Mapping[str, str], n_rows: int) -> None:
    if text in required:
        raise TokenizerError(
            f"{required[text]} must be a token of tokenizer.json or one that the model has an embedding for, "
            f"got {text!r:.80} and {n_rows} embeddings: make the files agree"
        )
    _log.warning("token %.80r is left out: the model has %d embeddings", text, n_rows)


def _mark_special(pipeline: tokenizers.Tokenizer, texts: Iterable[str]) -> None:
    """Make tokens of a pipeline special; texts that are not tokens of it stay plain."""
    known = pipeline.get_added_tokens_decoder()
    plain = []
    for text in sorted(texts):
        token_id = pipeline.token_to_id(text)
        if token_id is None or (token_id in known and known[token_id].special):
            continue
        token = known.get(token_id, AddedToken(text, normalized=False))
        token.special = True
        plain.append(token)
    pipeline.add_tokens(plain)


def _named_special(token: AddedToken, texts: set[str]) -> AddedToken:
    token.special = token.special or token.content in texts
    return token


def _special_texts(
    config: Mapping[str, Any],
    legacy: Mapping[str, Any],
    numbered: Mapping[int, AddedToken],
    directory: Path,
) -> set[str]:
    """Every text that one of the files calls special."""
    values: list[Any] = [token.content for token in numbered.values() if token.special]
    for settings in (config, legacy):
        values += [value for key, value in settings.items() if key.endswith("_token")]
        for key in _EXTRA_KEYS:
            extra = settings.get(key) or []
            values += extra.values() if isinstance(extra, dict) else _list(extra, directory)
    texts = (value.get("content") if isinstance(value, dict) else value for value in values)
    return {text for text in texts if isinstance(text, str) and text}


def _first(settings: Mapping[str, Any]) -> Any:
    return next((settings[key] for key in _EXTRA_KEYS if settings.get(key)), None)


def _list(value: Any, directory: Path) -> list[Any]:
    if not isinstance(value, list):
        raise TokenizerError(
            f"extra_special_tokens must be a list of tokens, or tokens by name, got {value!r:.80} in {directory}: "
            "correct it"
        )
    return value


def _is_token(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, dict) and "content" in value)


def _token(value: Any, directory: Path) -> AddedToken:
    """A special token from its text, or from an object with its text and flags."""
    fields = value if isinstance(value, dict) else {"content": value}
    text = fields.get("content")
    flags = {flag: fields[flag] for flag in _FLAGS if flag in fields}
    if not isinstance(text, str) or not all(type(flag) is bool for flag in flags.values()):
        raise TokenizerError(
            f"a token must be a text, or an object with a content and flags, got {value!r:.80} in {directory}: "
            "correct it"
        )
    return AddedToken(text, **flags | {"special": True})


def _numbered(value: Any, directory: Path) -> dict[int, AddedToken]:
    is_table = isinstance(value, dict) and all(
        key.isdecimal() and isinstance(entry, dict) for key, entry in value.items()
    )
    if not is_table:
        raise TokenizerError(
            f"added_tokens_decoder must map ids to objects, got {value!r:.80} in "
            f"{directory}/tokenizer_config.json: correct it"
        )
    tokens = {}
    for key, entry in value.items():
        token = _token(entry, directory)
        token.special = entry.get("special", False)
        tokens[int(key)] = token
    return {token_id: token for token_id, token in tokens.items() if token.content}


def _numbered_by_text(value: Mapping[str, Any], special: set[str]) -> dict[int, AddedToken]:
    if not all(type(token_id) is int and token_id >= 0 for token_id in value.values()):
        raise TokenizerError("added_tokens.json must map texts to ids from 0: correct it")
    return {
        token_id: AddedToken(text, normalized=text not in special, special=text in special)
        for text, token_id in value.items()
        if text
    }
