"""A pipeline to which special tokens are plain text.

The library can be told to leave the special tokens of a text uncut (`encode_special_tokens`). The model behind it may
still have them in its vocabulary, and find them there: Unigram takes the piece </s> for the text </s>, WordLevel the
word, BPE what its merges make. So the model of a plain pipeline has them under names that no text spells.
"""

import json
import re
from typing import Any

import tokenizers

from xplm.text.marked import MARK

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # a byte of byte fallback, found by its name


def plain_pipeline(pipeline: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """A copy that encodes special tokens as plain text. Tokens of one character are text all the same."""
    state = json.loads(pipeline.to_str())
    model = state["model"]
    is_list = isinstance(model["vocab"], list)  # Unigram's: [text, score], in the order of the ids
    vocab = {piece[0] for piece in model["vocab"]} if is_list else model["vocab"]
    texts = (token["content"] for token in state["added_tokens"] if token["special"])
    names = {
        text: f"{MARK}{n}"
        for n, text in enumerate(texts)
        if text in vocab and len(text) > 1 and not _BYTE.fullmatch(text)
    }
    _rename(model, names)
    state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] not in names]
    plain = tokenizers.Tokenizer.from_str(json.dumps(state))
    plain.encode_special_tokens = True
    return plain


def _rename(model: dict[str, Any], names: dict[str, str]) -> None:
    """Rename tokens of a model, and leave out what BPE makes them of, and of them."""
    vocab = model["vocab"]
    if isinstance(vocab, list):
        model["vocab"] = [[names.get(text, text), score] for text, score in vocab]
    else:
        model["vocab"] = {names.get(text, text): token_id for text, token_id in vocab.items()}
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if "merges" in model:
        pairs = (m.split(" ", 1) if isinstance(m, str) else m for m in model["merges"])
        prefix = model.get("continuing_subword_prefix") or ""
        model["merges"] = [
            [left, right]
            for left, right in pairs
            if names.keys().isdisjoint((left, right, left + right.removeprefix(prefix)))
        ]
