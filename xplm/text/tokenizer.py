"""A model's tokenizer: a pipeline of the `tokenizers` library, and the facts that checkpoints keep beside it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from xplm.errors import RequestError
from xplm.text import gguf_tokenizer, hf_tokenizer
from xplm.text.faults import library_faults
from xplm.text.parts import TokenizerParts


@dataclass(frozen=True, eq=False)
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
            path: a directory that holds at least tokenizer.json.

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
        """Text of the special tokens that have a name: "bos_token", "eos_token", "unk_token", "pad_token"."""
        return dict(self.parts.special_tokens)

    @property
    def chat_template(self) -> str | None:
        """Source of the chat template, or None for a model that was not tuned for chat."""
        return self.parts.chat_template

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

    def is_special(self, token_id: int) -> bool:
        """Whether the id is a control token, which `decode` leaves out."""
        return token_id in self._special_ids

    def encode(
        self, text: str, *, add_special_tokens: bool = True, allow_special: bool = True
    ) -> list[int]:
        """Token ids of a text.

        Args:
            text: any valid Unicode.
            add_special_tokens: put around the text what the model expects there, such as a BOS token.
            allow_special: read special tokens that the text spells out as such; False takes them for plain text, which
                is what text from a stranger should be.

        Returns:
            Ids.

        Raises:
            RequestError: the text holds a lone surrogate.
            TokenizerError: the pipeline cannot encode the text, for its unknown token is not in its vocabulary, say.
        """
        pipeline = self.pipeline if allow_special else self._plain_pipeline
        return encode_with(pipeline, text, add_special_tokens=add_special_tokens)

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
    def _special_ids(self) -> frozenset[int]:
        added = self.pipeline.get_added_tokens_decoder()
        return frozenset(token_id for token_id, token in added.items() if token.special)

    @cached_property
    def _plain_pipeline(self) -> tokenizers.Tokenizer:
        pipeline = tokenizers.Tokenizer.from_str(self.pipeline.to_str())
        pipeline.encode_special_tokens = True
        return pipeline


def encode_with(
    pipeline: tokenizers.Tokenizer, text: str, *, add_special_tokens: bool
) -> list[int]:
    """Token ids of a text, from one of a tokenizer's pipelines.

    Raises:
        RequestError: the text holds a lone surrogate.
        TokenizerError: the pipeline cannot encode the text.
    """
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
