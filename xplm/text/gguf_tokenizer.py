"""The tokenizer in a GGUF file's metadata, rebuilt as a pipeline of the `tokenizers` library.

    tokenizer.ggml.model         "gpt2": byte-level BPE, or "llama": SentencePiece BPE with byte fallback
    tokenizer.ggml.pre           name of the pre-tokeniser ("gpt2" only); see `xplm.text.pre_tokenizers`
    tokenizer.ggml.tokens        text of each token
    tokenizer.ggml.token_type    normal, unknown, control, user-defined, unused, byte
    tokenizer.ggml.merges        "left right", best first ("gpt2")
    tokenizer.ggml.scores        log-probability of each piece ("llama"); SentencePiece numbers pieces by falling score
    tokenizer.ggml.*_token_id    special tokens by name
    tokenizer.chat_template      the default chat template; with .NAME behind it, a further one

Source: the GGUF specification (ggml-org/ggml, docs/gguf.md), and llama.cpp where that leaves a default open.

SentencePiece joins the two neighbours whose union has the best score; BPE joins the pair with the best rank. So the
merges of a "llama" vocabulary are all the ways to cut a piece into two pieces, ranked by the score of the whole.
User-defined pieces are joined before all others. Those that are runs of spaces are stored as spaces; a text has its
spaces replaced, so they are spelled as it is, and made by merges.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from xplm.errors import TokenizerError
from xplm.text.control_tokens import TokenType, correct_types, find_ends
from xplm.text.parts import SPECIAL_TOKEN_NAMES, TokenizerParts, no_pipeline, unique_ids
from xplm.text.pre_tokenizers import PRE_TOKENIZERS, PreTokenizer

_SPACE = "\u2581"  # SentencePiece's stand-in for a space
_ID_KEYS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "eot_token": "eot_token_id",
    "eom_token": "eom_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
_CONTROL_NAMES = ("bos_token", "eos_token", "eot_token", "eom_token")
NO_TOKENIZER = ("none", "no_vocab")
"""Models of files that leave their tokenizer out."""

_SENTENCEPIECE_IDS = {"unk_token": 0, "bos_token": 1, "eos_token": 2}

_log = logging.getLogger(__name__)


def read_metadata(metadata: Mapping[str, Any]) -> TokenizerParts:
    """Build the tokenizer that a file's metadata describes.

    Raises:
        TokenizerError: the metadata is incomplete or malformed, or names a tokenizer that xplm does not have.
    """
    has_tokens = "tokenizer.ggml.tokens" in metadata
    if not has_tokens and metadata.get("tokenizer.ggml.model", "none") in NO_TOKENIZER:
        _log.warning("no tokenizer in this GGUF file: it takes and gives token ids alone")
        return TokenizerParts(no_pipeline(), {}, (), None)
    model = _get(metadata, "model", str)
    tokens = _tokens(metadata)
    ids = _special_token_ids(metadata, len(tokens), _SENTENCEPIECE_IDS if model == "llama" else {})
    types = _token_types(metadata, len(tokens))
    if model == "llama":
        tokens = _spell_spaces(tokens, types)
    vocab = {token: token_id for token_id, token in enumerate(tokens)}
    ends = find_ends(vocab)
    template, named_templates = _templates(metadata)
    types = correct_types(
        tokens,
        types,
        named={ids[name] for name in _CONTROL_NAMES if name in ids},
        ends=ends,
        template="".join([template or "", *named_templates.values()]),
        is_merged=_merged(metadata, vocab, model),
    )

    if model == "gpt2":
        pre = _pre_tokenizer(metadata)
        pipeline = _byte_level_pipeline(metadata, vocab, pre)
        add_bos = pre.add_bos
    elif model == "llama":
        unknown = tokens[ids["unk_token"]]
        pipeline = _sentencepiece_pipeline(metadata, vocab, types, unknown)
        add_bos = True
    else:
        raise TokenizerError(
            f'tokenizer.ggml.model must be "gpt2" or "llama", got {model!r}: '
            "convert the model from its Hugging Face directory instead"
        )

    _add_tokens(pipeline, tokens, types)
    pipeline.post_processor = _surround(
        tokens,
        ids.get("bos_token") if _flag(metadata, "add_bos_token", add_bos) else None,
        ids.get("eos_token") if _flag(metadata, "add_eos_token", False) else None,
    )

    return TokenizerParts(
        pipeline,
        {name: tokens[ids[name]] for name in SPECIAL_TOKEN_NAMES if name in ids},
        unique_ids([*(ids.get(name) for name in ("eos_token", "eot_token", "eom_token")), *ends]),
        template,
        named_templates,
    )


def _tokens(metadata: Mapping[str, Any]) -> list[str]:
    given = _get_list(metadata, "tokens", str)
    # Unused ones may be empty, and several then: they take the names that llama.cpp gives them.
    tokens = [token or f"[EMPTY_{token_id}]" for token_id, token in enumerate(given)]
    if n_repeated := len(tokens) - len(set(tokens)):
        raise TokenizerError(
            f"tokenizer.ggml.tokens must differ, got {n_repeated} repeated: convert the model again"
        )
    return tokens


def _add_tokens(
    pipeline: tokenizers.Tokenizer, tokens: Sequence[str], types: Sequence[int]
) -> None:
    """Tell the pipeline which tokens are not made by its merges."""
    special = {TokenType.CONTROL, TokenType.UNKNOWN}
    kinds = list(zip(tokens, types, strict=True))
    pipeline.add_special_tokens([_added(t, special=True) for t, kind in kinds if kind in special])
    pipeline.add_tokens(
        [
            _added(t, special=False)
            for t, kind in kinds
            if kind == TokenType.USER_DEFINED and t.strip(_SPACE)
        ]
    )


def _spell_spaces(tokens: Sequence[str], types: Sequence[int]) -> list[str]:
    """The tokens; user-defined runs of spaces in SentencePiece's spelling, unless that is a token, too."""
    there = set(tokens)
    return [
        _SPACE * len(token)
        if kind == TokenType.USER_DEFINED
        and len(token) > 1
        and not token.strip(" ")
        and _SPACE * len(token) not in there
        else token
        for token, kind in zip(tokens, types, strict=True)
    ]


def _byte_level_pipeline(
    metadata: Mapping[str, Any], vocab: dict[str, int], pre: PreTokenizer
) -> tokenizers.Tokenizer:
    merges = []
    for merge in _get_list(metadata, "merges", str):
        cut = merge.find(" ", 1)  # a token may be a space itself
        left, right = merge[:cut], merge[cut + 1 :]
        if cut < 0 or left not in vocab or right not in vocab or left + right not in vocab:
            raise TokenizerError(
                f'tokenizer.ggml.merges must join two tokens into a third, got "{merge:.80}": '
                "convert the model again"
            )
        merges.append((left, right))

    pipeline = tokenizers.Tokenizer(models.BPE(vocab, merges, ignore_merges=pre.ignore_merges))
    if pre.nfc:
        pipeline.normalizer = normalizers.NFC()
    splits = [
        pre_tokenizers.Split(tokenizers.Regex(split), behavior="isolated") for split in pre.splits
    ]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pipeline.pre_tokenizer = pre_tokenizers.Sequence([*splits, to_bytes])
    pipeline.decoder = decoders.ByteLevel()
    return pipeline


def _sentencepiece_pipeline(
    metadata: Mapping[str, Any], vocab: dict[str, int], types: list[int], unknown: str
) -> tokenizers.Tokenizer:
    merges = _merges_by_score(vocab, types, _scores(metadata, len(vocab)))
    pipeline = tokenizers.Tokenizer(
        models.BPE(
            vocab,
            merges,
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    escape = normalizers.Replace(" ", _SPACE)
    unescape = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if _flag(metadata, "add_space_prefix", True):
        pipeline.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), escape])
        pipeline.decoder = decoders.Sequence([*unescape, decoders.Strip(" ", 1, 0)])
    else:
        pipeline.normalizer = escape
        pipeline.decoder = decoders.Sequence(unescape)
    return pipeline


def _merges_by_score(
    vocab: Mapping[str, int], types: Sequence[int], scores: Sequence[float]
) -> list[tuple[str, str]]:
    """Every way to cut a piece into two, the best piece first, user-defined ones before all others."""
    joinable = (TokenType.NORMAL, TokenType.USER_DEFINED)
    ranked = sorted(
        (types[whole] != TokenType.USER_DEFINED, -scores[whole], whole, piece)
        for piece, whole in vocab.items()
        if types[whole] in joinable
    )
    merges = []
    for *_, piece in ranked:
        pairs = []
        for cut in range(1, len(piece)):
            left = vocab.get(piece[:cut])
            right = None if left is None else vocab.get(piece[cut:])
            if right is not None:
                pairs.append((left, right, cut))
        merges += [(piece[:cut], piece[cut:]) for *_, cut in sorted(pairs)]
    return merges


def _scores(metadata: Mapping[str, Any], n_tokens: int) -> list[float]:
    if "tokenizer.ggml.scores" not in metadata:
        _log.warning(
            "no tokenizer.ggml.scores in this GGUF file: pieces join in the order of their ids"
        )
        return [-float(token_id) for token_id in range(n_tokens)]
    scores = _get_list(metadata, "scores", float)
    if len(scores) != n_tokens:
        raise TokenizerError(
            f"tokenizer.ggml.scores must have {n_tokens} entries, one a token, got {len(scores)}"
        )
    return scores


def _pre_tokenizer(metadata: Mapping[str, Any]) -> PreTokenizer:
    if "tokenizer.ggml.pre" not in metadata:
        _log.warning(
            "no tokenizer.ggml.pre in this GGUF file: cutting words as llama.cpp's default does"
        )
        return PRE_TOKENIZERS["default"]
    name = _get(metadata, "pre", str)
    if name not in PRE_TOKENIZERS:
        raise TokenizerError(
            f"tokenizer.ggml.pre must be one of {', '.join(PRE_TOKENIZERS)}, got {name!r}: "
            "convert the model from its Hugging Face directory instead"
        )
    return PRE_TOKENIZERS[name]


def _special_token_ids(
    metadata: Mapping[str, Any], n_tokens: int, defaults: dict[str, int]
) -> dict[str, int]:
    ids = dict(defaults)
    for name, key in _ID_KEYS.items():
        if f"tokenizer.ggml.{key}" in metadata:
            ids[name] = _get(metadata, key, int)
    for name, token_id in ids.items():
        if not 0 <= token_id < n_tokens:
            raise TokenizerError(
                f"tokenizer.ggml.{_ID_KEYS[name]} must be below {n_tokens}, the number of tokens, got {token_id}"
            )
    return ids


def _token_types(metadata: Mapping[str, Any], n_tokens: int) -> list[int]:
    if "tokenizer.ggml.token_type" not in metadata:
        return [TokenType.NORMAL] * n_tokens
    types = _get_list(metadata, "token_type", int)
    if len(types) != n_tokens:
        raise TokenizerError(
            f"tokenizer.ggml.token_type must have {n_tokens} entries, one a token, got {len(types)}"
        )
    return types


def _templates(metadata: Mapping[str, Any]) -> tuple[str | None, dict[str, str]]:
    """The source of the default chat template, and those of further ones by name."""
    key = "tokenizer.chat_template"
    found = {k: value for k, value in metadata.items() if k == key or k.startswith(f"{key}.")}
    for name, value in found.items():
        if not isinstance(value, str | None):
            raise TokenizerError(f"{name} must be text, got {value!r:.80}")
    default = found.pop(key, None)
    return default, {k.removeprefix(f"{key}."): value for k, value in found.items() if value}


def _merged(
    metadata: Mapping[str, Any], vocab: Mapping[str, int], model: str
) -> Callable[[str], bool]:
    """Tells whether the merges can make a token out of plain text."""
    if model != "gpt2":  # any two pieces whose union is a piece are joined
        return lambda token: (
            len(token) == 1
            or any(token[:cut] in vocab and token[cut:] in vocab for cut in range(1, len(token)))
        )

    @cache
    def made() -> set[str]:
        return {merge.replace(" ", "") for merge in _get_list(metadata, "merges", str)}

    return lambda token: len(token) == 1 or token in made()


def _surround(tokens: list[str], bos: int | None, eos: int | None) -> Any:
    """The post-processor that puts a BOS token before a text and an EOS token after it."""
    before = [] if bos is None else [tokens[bos]]
    after = [] if eos is None else [tokens[eos]]
    special = [(tokens[i], i) for i in unique_ids([bos, eos])]
    return processors.TemplateProcessing(
        single=[*before, "$A", *after],
        pair=[*before, "$A", *after, *(f"{token}:1" for token in before), "$B:1", *after],
        special_tokens=special,
    )


def _added(token: str, *, special: bool) -> tokenizers.AddedToken:
    return tokenizers.AddedToken(token, special=special, normalized=False)


def _flag(metadata: Mapping[str, Any], key: str, default: bool) -> bool:
    return _get(metadata, key, bool) if f"tokenizer.ggml.{key}" in metadata else default


def _get(metadata: Mapping[str, Any], key: str, kind: type) -> Any:
    value = metadata.get(f"tokenizer.ggml.{key}")
    if not isinstance(value, kind):
        raise TokenizerError(
            f"tokenizer.ggml.{key} must be {kind.__name__}, got {value!r:.80}: the file is damaged or incomplete"
        )
    return value


def _get_list(metadata: Mapping[str, Any], key: str, kind: type) -> list[Any]:
    values = _get(metadata, key, list)
    if not all(isinstance(value, kind) for value in values):
        raise TokenizerError(
            f"tokenizer.ggml.{key} must be a list of {kind.__name__}: the file is damaged"
        )
    return list(values)
