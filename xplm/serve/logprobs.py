"""Tokens with their log-probabilities, in the two forms that OpenAI's interfaces have."""

from collections.abc import Sequence
from typing import Any

from tokenizers import pre_tokenizers

from xplm.generate.sampling import Ranked
from xplm.text.tokenizer import Tokenizer

_REPLACEMENT = "\ufffd"


def _byte_alphabet() -> dict[str, int]:
    """The byte that each character of byte-level BPE stands for: printable ones themselves, others from 256 on."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    own = {c: ord(c) for c in alphabet if ord(c) < 256}
    others = sorted(c for c in alphabet if ord(c) >= 256)
    hidden = [byte for byte in range(256) if byte not in own.values()]
    return own | dict(zip(others, hidden, strict=True))


_BYTES = _byte_alphabet()


class TokenTexts:
    """The text and the bytes of single tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Take a model's tokenizer."""
        self._tokenizer = tokenizer
        self._texts: dict[int, str] = {}

    def text(self, token: int) -> str:
        """A token alone, special ones too; U+FFFD stands for parts of characters."""
        if token not in self._texts:
            text = self._tokenizer.decode([token], skip_special_tokens=False)
            name = self._tokenizer.pipeline.id_to_token(token) or ""
            if name.startswith("\u2581") and not text.startswith(" "):
                text = " " + text  # SentencePiece drops the space that begins a text
            self._texts[token] = text
        return self._texts[token]

    def bytes(self, token: int) -> list[int]:
        """The bytes of a token."""
        text = self.text(token)
        name = self._tokenizer.pipeline.id_to_token(token) or ""
        if _REPLACEMENT in text and all(c in _BYTES for c in name):
            return [_BYTES[c] for c in name]
        if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
            return [int(name[3:5], 16)]
        return list(text.encode())

    def as_chat(
        self, ids: Sequence[int], logprobs: Sequence[float], top: Sequence[Ranked]
    ) -> dict[str, Any]:
        """`logprobs` of a choice of a chat; `top` is of each token, or empty."""
        tops = top or [[]] * len(ids)
        content = [
            self._entry(token, logprob) | {"top_logprobs": [self._entry(*pair) for pair in ranked]}
            for token, logprob, ranked in zip(ids, logprobs, tops, strict=True)
        ]
        return {"content": content, "refusal": None}

    def as_completion(
        self,
        ids: Sequence[int],
        logprobs: Sequence[float | None],
        top: Sequence[Ranked],
        offset: int,
    ) -> dict[str, Any]:
        """`logprobs` of a choice of a completion.

        Args:
            ids: the tokens.
            logprobs: of each; None for the first of a prompt.
            top: the likeliest in the place of each, or empty.
            offset: characters in front of them.
        """
        texts = [self.text(token) for token in ids]
        tops = top or [[]] * len(ids)
        offsets = []
        for text in texts:
            offsets.append(offset)
            offset += len(text)
        return {
            "tokens": texts,
            "token_logprobs": list(logprobs),
            "top_logprobs": [
                None if logprob is None else self._by_text(text, logprob, ranked)
                for text, logprob, ranked in zip(texts, logprobs, tops, strict=True)
            ],
            "text_offset": offsets,
        }

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        return {"token": self.text(token), "logprob": logprob, "bytes": self.bytes(token)}

    def _by_text(self, text: str, logprob: float, ranked: Ranked) -> dict[str, float]:
        """The likeliest tokens and the one that stands there; of several with one text, the likeliest."""
        found: dict[str, float] = {}
        for token, its_logprob in ranked:
            found.setdefault(self.text(token), its_logprob)
        found.setdefault(text, logprob)
        return found
