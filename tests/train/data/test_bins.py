"""A corpus becomes a file of ids once, whole or not at all."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from xplm.errors import DataError
from xplm.progress import OnProgress, unseen
from xplm.text import documents
from xplm.text.tokenizer import Tokenizer
from xplm.text.trainable import train_tokenizer
from xplm.train.data.bins import open_tokens as open_bin
from xplm.train.data.digest import data_digest
from xplm.train.data.token_file import TokenFile


def open_tokens(
    path: Path, tokenizer: Tokenizer, cache: Path, progress: OnProgress = unseen
) -> TokenFile:
    """The bin of a corpus as it is now."""
    return open_bin(path, tokenizer, cache, data_digest(path, progress), progress)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.txt").write_text("to be", encoding="utf-8")
    (folder / "b.jsonl").write_text('"or not </s>"\n"</s> be"\n', encoding="utf-8")
    return folder


@pytest.fixture
def tokenizer() -> Tokenizer:
    return train_tokenizer("word", ["to be or not"])


def test_documents_follow_each_other_each_with_its_end(
    corpus: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    tokens = open_tokens(corpus, tokenizer, tmp_path / "cache")
    names = [tokenizer.pipeline.id_to_token(i) for i in np.asarray(tokens).tolist()]
    assert names == [
        "▁to",
        "▁be",
        "</s>",
        "▁or",
        "▁not",
        "</s>",
        "<unk>",
        "<unk>",
        "<unk>",
        "<unk>",
        "▁be",
        "</s>",
    ]
    assert tokens.dtype == np.uint16


def test_a_large_vocabulary_takes_four_bytes(tmp_path: Path) -> None:
    text = "".join(map(chr, range(0x3000, 0xD800))) + "".join(map(chr, range(0x20000, 0x29000)))
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    tokenizer = train_tokenizer("char", [text])
    assert tokenizer.vocab_size > 2**16
    tokens = open_tokens(tmp_path / "a.txt", tokenizer, tmp_path / "cache")
    assert tokens.dtype == np.uint32
    assert tokenizer.decode(np.asarray(tokens)) == text


def test_a_bin_is_built_once_and_again_when_data_or_tokenizer_change(
    corpus: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    stages: list[str] = []

    def tokens(t: Tokenizer) -> np.ndarray:
        stages.clear()
        return np.asarray(open_tokens(corpus, t, cache, lambda what, *_: stages.append(what)))

    first = tokens(tokenizer)
    assert set(stages) == {"comparing", "reading"}
    np.testing.assert_array_equal(tokens(tokenizer), first)
    assert set(stages) == {"comparing"}

    tokens(train_tokenizer("word", ["to be"]))
    assert "reading" in stages
    (corpus / "a.txt").write_text("to bee", encoding="utf-8")
    tokens(tokenizer)
    assert "reading" in stages
    assert len(list(cache.iterdir())) == 3


def test_a_failed_build_leaves_nothing(
    corpus: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="could not be written; got: No space left on device"):
        open_tokens(corpus, tokenizer, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_unreadable_corpus_leaves_nothing(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"to be \xff")
    with pytest.raises(DataError, match="UTF-8"):
        open_tokens(tmp_path / "a.txt", tokenizer, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('""\n', encoding="utf-8")
    with pytest.raises(DataError, match="must hold text"):
        open_tokens(tmp_path / "a.jsonl", train_tokenizer("char", ["a"]), tmp_path / "cache")


@pytest.mark.nightly
def test_memory_does_not_grow_with_the_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.txt"
    file.write_text("to be or not to be\n" * 200_000, encoding="utf-8")  # 3.8 MB
    tokenizer = train_tokenizer("bpe", ["to be or not to be\n"] * 10, vocab_size=270)
    monkeypatch.setattr(documents, "BATCH_CHARS", 2**16)
    tracemalloc.start()
    tokens = open_tokens(file, tokenizer, tmp_path / "cache")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(tokens) > 1_000_000
    assert (
        peak < 4_000_000
    )  # a batch of 2**17 characters at most, as text and as ids; 8 bytes an id would be 8 MB
