"""Documents as token ids: a model learns from what it is given when it is used.

    a prompt, a text to score   before  ids  after            `Tokenizer.encode`, `Tokenizer.encode_long`
    a text to learn from        before  ids  after  end       `encode_documents`

`before` and `after` are `Tokenizer.surround`: what the tokenizer puts around every text, such as a BOS token. `end` is
the token that ends a text, unless `after` ends with one. Special tokens that a document spells out are plain text.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from xplm.text.pieces import Piece, document_pieces
from xplm.text.tokenizer import TEXT_PIECE, Tokenizer

BATCH_CHARS = 2**20
"""Characters that are tokenised at once, on all cores."""


class EncodedPiece(NamedTuple):
    """Part of a document, as token ids."""

    ids: np.ndarray  # (n,) uint32
    is_last: bool  # whether the document ends here


def encode_documents(tokenizer: Tokenizer, pieces: Iterable[Piece]) -> Iterator[EncodedPiece]:
    """Encode documents, the ids around each with its first and its last piece.

    Args:
        tokenizer: the model's.
        pieces: the documents, one after the other, of valid Unicode.

    Raises:
        TokenizerError: the pipeline cannot encode a text.
    """
    before, after = tokenizer.surround
    is_ended = bool(after) and after[-1] in tokenizer.eos_token_ids
    begin = np.asarray(before, np.uint32)
    end = np.asarray(after if is_ended else [*after, *tokenizer.eos_token_ids[:1]], np.uint32)
    is_first = True
    for batch in _batches(pieces):
        encoded = tokenizer.encode_plain([piece.text for piece in batch])
        for piece, ids in zip(batch, encoded, strict=True):
            parts = [begin] * is_first + [ids] + [end] * piece.is_last
            yield EncodedPiece(np.concatenate(parts), piece.is_last)
            is_first = piece.is_last


def encode_texts(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[np.ndarray]:
    """Encode documents, each as one array (N,) uint32; see `encode_documents`."""
    parts: list[np.ndarray] = []
    pieces = (piece for text in texts for piece in document_pieces(text, TEXT_PIECE))
    for ids, is_last in encode_documents(tokenizer, pieces):
        parts.append(ids)
        if is_last:
            yield np.concatenate(parts)
            parts = []


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    n_chars = 0
    for piece in pieces:
        batch.append(piece)
        n_chars += len(piece.text)
        if n_chars >= BATCH_CHARS:
            yield batch
            batch, n_chars = [], 0
    if batch:
        yield batch
