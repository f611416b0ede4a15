"""Characters that a tokenizer lacks: a model reads them as one unknown token, or not at all.

A vocabulary of characters, of words, or of pieces without bytes knows only what it was made from. Its pipeline gives
the token `<unk>` for the rest; one that has no such token leaves the rest out.
"""

import json
from collections import Counter
from collections.abc import Iterable

import numpy as np
from tokenizers import models

from xplm.text.tokenizer import Tokenizer

UNSEEN = "\U0010fffd"
"""A character that no vocabulary has been made from."""


def unknown_id(tokenizer: Tokenizer) -> int | None:
    """Id of the token for all that the vocabulary lacks; None where there is none, or where it ends texts too."""
    found = _model_unknown_id(tokenizer)
    return None if found in tokenizer.eos_token_ids else found


def count_unknown(tokenizer: Tokenizer, ids: np.ndarray) -> int:
    """Unknown tokens among ids (N,) integer."""
    unknown = unknown_id(tokenizer)
    return 0 if unknown is None else int(np.count_nonzero(ids == unknown))


def leaves_out(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer leaves characters out."""
    return _is_left_out(tokenizer, UNSEEN)


def count_left_out(tokenizer: Tokenizer, texts: Iterable[str]) -> int:
    """Characters of texts, white space aside, that become no token, only a part of their bytes, or an end of text."""
    if not leaves_out(tokenizer):
        return 0
    found: Counter[str] = Counter()
    for text in texts:
        found.update(text)
    return sum(n for character, n in found.items() if _is_left_out(tokenizer, character))


def _is_left_out(tokenizer: Tokenizer, character: str) -> bool:
    if character.isspace() or character == "\ufffd":
        return False
    ids = tokenizer.encode(character, add_special_tokens=False, allow_special=False)
    unknown = _model_unknown_id(tokenizer)
    if unknown in ids and unknown in tokenizer.eos_token_ids:
        return True
    text = tokenizer.decode(ids, skip_special_tokens=False)
    return not text.strip() or "\ufffd" in text


def _model_unknown_id(tokenizer: Tokenizer) -> int | None:
    model = tokenizer.pipeline.model
    if isinstance(model, models.Unigram):
        found: int | None = json.loads(model.__getstate__())["unk_id"]
        return found
    return tokenizer.pipeline.token_to_id(model.unk_token) if model.unk_token else None


def describe_unknown(tokenizer: Tokenizer, n_unknown: int, n_tokens: int, n_lost: int) -> list[str]:
    """What the tokenizer lacks of a text, a line each for the user; no line where it lacks nothing.

    Args:
        tokenizer: the model's.
        n_unknown: unknown tokens.
        n_tokens: tokens in all.
        n_lost: characters that are left out.
    """
    lines = []
    unknown = unknown_id(tokenizer)
    if n_unknown and unknown is not None:
        token = tokenizer.pipeline.id_to_token(unknown)
        lines.append(
            f"{n_unknown:,} of {n_tokens:,} tokens, {100 * n_unknown / n_tokens:.2g} %, are {token}, "
            "for the tokenizer lacks what the text has there"
        )
    if n_lost:
        lines.append(f"{n_lost:,} characters are left out, for the tokenizer lacks them")
    return lines
