"""Token bins: a corpus as one row of ids in a file, mapped into memory instead of read.

    NAME.u2.bin   ids as little-endian uint16, for vocabularies up to 65,536
    NAME.u4.bin   ids as little-endian uint32, for larger ones

without a header, documents one after the other, each followed by the tokenizer's end-of-text id if it has one. NAME is
a hash of the corpus and of the tokenizer, so that a bin is built once, and again when either changes.
"""

import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tokenizers

from xplm.checkpoint.files import replacing
from xplm.checkpoint.untrusted import open_regular
from xplm.errors import DataError
from xplm.text.tokenizer import Tokenizer
from xplm.train.data.sources import Piece, Progress, list_files, read_pieces, unseen

_BATCH_CHARS = 2**20  # tokenised at once, on all cores
_FORMAT = "xplm tokens 1"

_log = logging.getLogger(__name__)


def open_tokens(
    path: Path, tokenizer: Tokenizer, cache: Path, progress: Progress = unseen
) -> np.ndarray:
    """The tokens of a corpus, from its bin, which is built if it is not there.

    Args:
        path: a text file, JSON or JSON lines, or a folder; larger than memory if need be.
        tokenizer: special tokens that the text spells out are plain text to it.
        cache: folder of bins; made if it is not there.
        progress: told of the bytes done.

    Returns:
        Ids (N,) uint16 or uint32, mapped read-only.

    Raises:
        DataError: the corpus cannot be read or holds no text, or the bin cannot be written.
    """
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 2**16 else "<u4")
    bin_path = cache / f"{_digest(path, tokenizer, progress)}.u{dtype.itemsize}.bin"
    if os.path.lexists(bin_path):
        tokens = _map(bin_path, dtype)
        if tokens is not None and tokens.max() < tokenizer.vocab_size:
            return tokens
        _log.warning("%s is damaged; building it again", bin_path)
    try:
        _build(bin_path, path, tokenizer, dtype, progress)
    except OSError as cause:
        raise DataError(f"{bin_path} could not be written; got: {cause.strerror}") from cause
    tokens = _map(bin_path, dtype)
    if tokens is None:
        raise DataError(f"{bin_path} must stay as it was written; it did not; start again")
    return tokens


def _map(bin_path: Path, dtype: np.dtype) -> np.ndarray | None:
    """A bin's ids, as a plain array, for memmap's own slices are slow; None where they are not whole."""
    try:
        with open_regular(bin_path) as file:
            return np.asarray(np.memmap(file, dtype, "r"))
    except (OSError, ValueError):  # ValueError: no bytes, or half an id
        return None


def _digest(path: Path, tokenizer: Tokenizer, progress: Progress) -> str:
    """A hash of all that the bin depends on: 32 hexadecimal digits."""
    files = list_files(path)
    total = sum(file.stat().st_size for file in files)
    digest = hashlib.sha256(
        f"{_FORMAT}\0{tokenizer.pipeline.to_str()}\0{tokenizer.eos_token_ids}".encode()
    )
    done = 0
    for file in files:
        digest.update(f"\0{file.suffix.lower()}\0{file.stat().st_size}\0".encode())
        try:
            with open_regular(file) as stream:
                while block := stream.read(2**20):
                    digest.update(block)
                    done += len(block)
                    progress("comparing", done, total)
        except OSError as cause:
            raise DataError(f"{file} must be readable; got: {cause.strerror}") from cause
    return digest.hexdigest()[:32]


def _build(
    bin_path: Path, path: Path, tokenizer: Tokenizer, dtype: np.dtype, progress: Progress
) -> None:
    bin_path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(bin_path) as file:
        for ids in _encode(read_pieces(path, progress), tokenizer):
            file.write(np.asarray(ids, dtype).tobytes())
        if not file.tell():
            raise DataError(f"training data must hold text, and {path} holds none")


def _encode(pieces: Iterator[Piece], tokenizer: Tokenizer) -> Iterator[list[int]]:
    pipeline = tokenizers.Tokenizer.from_str(tokenizer.pipeline.to_str())
    pipeline.encode_special_tokens = True
    end = list(tokenizer.eos_token_ids[:1])
    for batch in _batches(pieces):
        encoded = pipeline.encode_batch_fast([p.text for p in batch], add_special_tokens=False)
        for piece, encoding in zip(batch, encoded, strict=True):
            yield encoding.ids + (end if piece.is_last else [])


def _batches(pieces: Iterator[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    n_chars = 0
    for piece in pieces:
        batch.append(piece)
        n_chars += len(piece.text)
        if n_chars >= _BATCH_CHARS:
            yield batch
            batch, n_chars = [], 0
    yield batch
