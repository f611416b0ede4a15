"""Token bins: a corpus as one row of ids in a file, of which windows are read.

    NAME.u2.bin   ids as little-endian uint16, for vocabularies up to 65,536
    NAME.u4.bin   ids as little-endian uint32, for larger ones

without a header, documents one after the other, each as `xplm.text.documents` encodes it. NAME is a hash of the corpus
and of the tokenizer, so that a bin is built once, and again when either changes.
"""

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from xplm.checkpoint.files import replacing
from xplm.errors import DataError
from xplm.progress import OnProgress, unseen
from xplm.text.documents import encode_documents
from xplm.text.tokenizer import Tokenizer
from xplm.train.data.sources import read_pieces
from xplm.train.data.token_file import TokenFile

CHECKED_IDS = 2**18
"""Ids that are looked at together."""

_FORMAT = "xplm tokens 2"

_log = logging.getLogger(__name__)


def open_tokens(
    path: Path, tokenizer: Tokenizer, cache: Path, digest: str, progress: OnProgress = unseen
) -> TokenFile:
    """The tokens of a corpus, from its bin, which is built if it is not there.

    Args:
        path: a text file, JSON or JSON lines, or a folder; larger than memory if need be.
        tokenizer: special tokens that the text spells out are plain text to it.
        cache: folder of bins; made if it is not there.
        digest: of the corpus.
        progress: told of the bytes done.

    Returns:
        Ids (N,) uint16 or uint32.

    Raises:
        DataError: the corpus cannot be read or holds no text, or the bin cannot be written.
    """
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 2**16 else "<u4")
    bin_path = cache / f"{_name(digest, tokenizer)}.u{dtype.itemsize}.bin"
    if os.path.lexists(bin_path):
        tokens = _open(bin_path, dtype)
        if tokens is not None and _highest(tokens) < tokenizer.vocab_size:
            return tokens
        _log.warning("%s is damaged; building it again", bin_path)
    try:
        _build(bin_path, path, tokenizer, dtype, progress)
    except OSError as cause:
        raise DataError(f"{bin_path} could not be written; got: {cause.strerror}") from cause
    tokens = _open(bin_path, dtype)
    if tokens is None:
        raise DataError(f"{bin_path} must stay as it was written; it did not; start again")
    return tokens


def _open(bin_path: Path, dtype: np.dtype[Any]) -> TokenFile | None:
    """A bin's ids; None where they are not whole."""
    try:
        return TokenFile.open(bin_path, dtype)
    except (OSError, ValueError):
        return None


def _highest(tokens: TokenFile) -> int:
    return max(int(ids.max()) for ids in tokens.chunks(CHECKED_IDS))


def _name(digest: str, tokenizer: Tokenizer) -> str:
    """A hash of all that the bin depends on: 32 hexadecimal digits."""
    facts = (_FORMAT, digest, tokenizer.pipeline.to_str(), str(tokenizer.eos_token_ids))
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:32]


def _build(
    bin_path: Path, path: Path, tokenizer: Tokenizer, dtype: np.dtype[Any], progress: OnProgress
) -> None:
    bin_path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(bin_path) as file:
        for piece in encode_documents(tokenizer, read_pieces(path, progress)):
            file.write(piece.ids.astype(dtype).tobytes())
        if not file.tell():
            raise DataError(f"training data must hold text, and {path} holds none")
