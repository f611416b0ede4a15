"""A model's tokenizer: a pipeline of the `tokenizers` library, and the facts that checkpoints keep beside it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from xplm.errors import ContextError, RequestError
from xplm.text import gguf_tokenizer, hf_tokenizer
from xplm.text.faults import library_faults, require_text
from xplm.text.parts import TokenizerParts, has_tokens
from xplm.text.pieces import cut_text
from xplm.text.plain import plain_pipeline

CHARS_PER_TOKEN = 1024
"""A text of more characters to each token of a context is taken not to fit, unless the vocabulary has longer tokens.
Only a pipeline that deletes text, or joins unknown text into one token, could fit it."""

COMPOSED = 4
"""Code points of the longest canonical decomposition of one: the most that a normalizer to NFC or NFKC joins."""

PROMPT_PIECE = 2**18
"""Characters of a prompt that are tokenised without being counted first."""

TEXT_PIECE = 2**20
"""Characters of a long text that are tokenised at once."""


@dataclass(frozen=True, eq=False, repr=False)
class Tokenizer:
    """Text to token ids and back.

    Attributes:
        parts: the pipeline that does the work, the special tokens, the ids that end a text, the chat template.
    """

    parts: TokenizerParts

    @classmethod
    def from_directory(cls, path: Path | str) -> "Tokenizer":
        """Read the tokenizer of a Hugging Face directory.

        Args:
            path: a directory that holds at least tokenizer.json, or no file of a tokenizer at all.

        Returns:
            The tokenizer.

        Raises:
            TokenizerError: a file is missing, malformed, or contradicts another.
        """
        return cls(hf_tokenizer.read_directory(Path(path)))

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> "Tokenizer":
        """Build the tokenizer that a GGUF file describes.

        Args:
            metadata: the file's key-value pairs, as Python values.

        Returns:
            The tokenizer.

        Raises:
            TokenizerError: the metadata is incomplete or malformed, or names a tokenizer that xplm does not have.
        """
        return cls(gguf_tokenizer.read_metadata(metadata))

    def __repr__(self) -> str:
        """Its algorithm, its size, the tokens that begin and end a text, and whether it has a chat template."""
        named = (f'{name[:3]} "{text}"' for name, text in self.special_tokens.items())
        facts = [type(self.pipeline.model).__name__, f"{self.vocab_size} tokens", *named]
        template = "chat template" if self.chat_template else "no chat template"
        return f"Tokenizer({', '.join([*facts, template])})"

    def save(self, directory: Path | str) -> None:
        """Write tokenizer.json, tokenizer_config.json and generation_config.json, as transformers reads them.

        Args:
            directory: an existing directory; each file is replaced as a whole.

        Raises:
            OSError: the directory is not there or not writable.
        """
        hf_tokenizer.write_directory(Path(directory), self.parts)

    @property
    def pipeline(self) -> tokenizers.Tokenizer:
        """The `tokenizers.Tokenizer` that does the work; not to be changed."""
        return self.parts.pipeline

    @property
    def special_tokens(self) -> dict[str, str]:
        """Text of the special tokens that have a name: "bos_token", "eos_token", "unk_token", "pad_token", ..."""
        return dict(self.parts.special_tokens)

    @property
    def chat_template(self) -> str | None:
        """Source of the default chat template, or None for a model that was not tuned for chat."""
        return self.parts.chat_template

    @property
    def named_templates(self) -> dict[str, str]:
        """Sources of further chat templates by name; "tool_use" is for chats with tools."""
        return dict(self.parts.named_templates)

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Every id that ends a text."""
        return self.parts.eos_token_ids

    @property
    def bos_token_id(self) -> int | None:
        """Id of the token that begins a text."""
        return self._id_of("bos_token")

    @property
    def pad_token_id(self) -> int | None:
        """Id of the token that fills up a batch."""
        return self._id_of("pad_token")

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included; a model may pad its own vocabulary beyond it."""
        return int(self.pipeline.get_vocab_size(with_added_tokens=True))

    @cached_property
    def surround(self) -> tuple[list[int], list[int]]:
        """The ids that the model expects in front of a text, such as a BOS token, and behind it."""
        probe = self.encode("a", add_special_tokens=False)
        whole = self.encode("a", add_special_tokens=True)
        if not probe:  # its vocabulary has no "a"
            return whole, []
        start = next(
            i for i in range(len(whole)) if whole[i : i + len(probe)] == probe
        )  # a pipeline adds ids, and keeps those of the text
        return whole[:start], whole[start + len(probe) :]

    def is_special(self, token_id: int) -> bool:
        """Whether the id is a control token, which `decode` leaves out."""
        return token_id in self._special_ids

    def encode(
        self, text: str, *, add_special_tokens: bool = True, allow_special: bool = True
    ) -> list[int]:
        """Token ids of a text. It takes 100 to 450 bytes of memory a character, the most where each is a token.

        Args:
            text: any valid Unicode.
            add_special_tokens: put around the text what the model expects there, such as a BOS token.
            allow_special: read special tokens that the text spells out as such; False takes them for plain text, which
                is what text from a stranger should be.

        Returns:
            Ids.

        Raises:
            RequestError: it is no text, or holds a lone surrogate, or the model has no tokenizer.
            TokenizerError: the pipeline cannot encode the text, for its unknown token is not in its vocabulary, say.
        """
        require_text("what is encoded", text)
        pipeline = self.pipeline if allow_special else self._plain_pipeline
        return encode_with(pipeline, text, add_special_tokens=add_special_tokens)

    def require_fit(self, text: str, context: int) -> None:
        """Refuse a text that is far too long for a context, before it is tokenised as a whole.

        One that is a little too long passes: its ids are to be counted. A cut can change how the text next to it is
        tokenised, so pieces are held against twice the context.

        Args:
            text: any.
            context: tokens that it has to fit.

        Raises:
            RequestError: the text has too many characters, or its first pieces too many tokens.
        """
        refusal = f"a prompt must fit the model's context of {context} tokens; got {len(text):,} characters"
        if len(text) > context * CHARS_PER_TOKEN and len(text) > context * self._chars_per_token:
            raise ContextError(f"{refusal}; shorten it")
        if len(text) <= PROMPT_PIECE:
            return
        n_chars = n_tokens = 0
        for piece in cut_text(text, PROMPT_PIECE):
            n_chars += len(piece)
            n_tokens += len(self.encode(piece, add_special_tokens=False))
            if n_tokens > 2 * context:
                raise ContextError(
                    f"{refusal}, of which the first {n_chars:,} make {n_tokens:,} tokens; shorten it"
                )

    def encode_long(
        self, text: str, *, add_special_tokens: bool = True, allow_special: bool = True
    ) -> np.ndarray:
        """Token ids of a text of any length, in memory that its ids bound.

        A text of more than TEXT_PIECE characters is tokenised in pieces; see `xplm.text.pieces`.

        Args:
            text: as `encode` takes it.
            add_special_tokens: as `encode` takes it.
            allow_special: as `encode` takes it.

        Returns:
            Ids (N,) uint32.

        Raises:
            RequestError, TokenizerError: as `encode` raises them.
        """
        require_text("what is encoded", text)
        if len(text) <= TEXT_PIECE:
            ids = self.encode(
                text, add_special_tokens=add_special_tokens, allow_special=allow_special
            )
            return np.asarray(ids, np.uint32)
        before, after = self.surround if add_special_tokens else ([], [])
        pieces = [
            np.asarray(
                self.encode(piece, add_special_tokens=False, allow_special=allow_special), np.uint32
            )
            for piece in cut_text(text, TEXT_PIECE)
        ]
        return np.concatenate(
            [np.asarray(before, np.uint32), *pieces, np.asarray(after, np.uint32)]
        )

    def encode_plain(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids (N,) uint32 of each of several texts, on all cores: nothing around them, no special token in them.

        Raises:
            TokenizerError: the pipeline cannot encode a text.
        """
        with library_faults("a tokenizer must encode every text"):
            encoded = self._plain_pipeline.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(encoding.ids, np.uint32) for encoding in encoded]

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """Text of token ids.

        Args:
            ids: ids; one that the vocabulary lacks is left out.
            skip_special_tokens: leave out control tokens.

        Returns:
            The text, with U+FFFD where the bytes are not UTF-8.

        Raises:
            TokenizerError: the pipeline cannot decode them.
        """
        # The library's own filter misses the special tokens of a vocabulary that are marked as "normalized".
        skipped = self._special_ids if skip_special_tokens else frozenset()
        kept = [int(token_id) for token_id in ids if token_id not in skipped]
        with library_faults("a tokenizer must decode its ids"):
            return str(self.pipeline.decode(kept, skip_special_tokens=False))

    def _id_of(self, name: str) -> int | None:
        text = self.parts.special_tokens.get(name)
        return None if text is None else self.pipeline.token_to_id(text)

    @cached_property
    def _chars_per_token(self) -> int:
        """Characters of a text that a token is taken to stand for at most."""
        vocab = self.pipeline.get_vocab(with_added_tokens=True)
        return max(CHARS_PER_TOKEN, COMPOSED * max(map(len, vocab), default=1))

    @cached_property
    def special_token_ids(self) -> dict[str, int]:
        """Id of every special token, by its text."""
        added = self.pipeline.get_added_tokens_decoder()
        return {token.content: token_id for token_id, token in added.items() if token.special}

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        return frozenset(self.special_token_ids.values())

    @cached_property
    def _plain_pipeline(self) -> tokenizers.Tokenizer:
        return plain_pipeline(self.pipeline)


def encode_with(
    pipeline: tokenizers.Tokenizer, text: str, *, add_special_tokens: bool
) -> list[int]:
    """Token ids of a text, from one of a tokenizer's pipelines.

    Raises:
        RequestError: the text holds a lone surrogate, or the model has no tokenizer.
        TokenizerError: the pipeline cannot encode the text.
    """
    if not has_tokens(pipeline):
        raise RequestError("a text needs a tokenizer, and this model has none; give token ids")
    try:
        with library_faults("a tokenizer must encode every text"):
            return list(pipeline.encode(text, add_special_tokens=add_special_tokens).ids)
    except TypeError:
        surrogate = next((i for i, c in enumerate(text) if "\ud800" <= c <= "\udfff"), None)
        if surrogate is None:
            raise
        raise RequestError(
            f"a text must be valid Unicode, got a lone surrogate at character {surrogate}: "
            "read the input as UTF-8"
        ) from None
