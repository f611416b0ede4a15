"""What a tokenizer lacks is counted: as unknown tokens, or as characters that are left out."""

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from xplm.text.parts import TokenizerParts
from xplm.text.tokenizer import Tokenizer
from xplm.text.trainable import train_tokenizer
from xplm.text.unknown import count_left_out, count_unknown, describe_unknown, leaves_out


def made(model: models.Model, eos: tuple[int, ...] = ()) -> Tokenizer:
    return Tokenizer(TokenizerParts(tokenizers.Tokenizer(model), {}, eos, None))


def some_bytes() -> Tokenizer:
    """Bytes, of which only those of a and b are there."""
    tokenizer = made(models.BPE({"a": 0, "b": 1, "Ã": 2}, []))
    tokenizer.pipeline.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pipeline.decoder = tokenizers.decoders.ByteLevel()
    return tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "unknown"),
    [
        (train_tokenizer("char", ["ab"]), 3),
        (train_tokenizer("word", ["ab"]), 2),
        (train_tokenizer("bpe", ["ab"], vocab_size=262), 0),
        (made(models.Unigram([("<unk>", 0.0), ("a", -1.0), ("b", -1.0)], 0)), 2),
        (made(models.BPE({"<u>": 0, "a": 1, "b": 2}, [], unk_token="<u>", fuse_unk=True)), 2),
    ],
    ids=["char", "word", "bytes", "unigram", "fused"],
)
def test_unknown_tokens_are_counted(tokenizer: Tokenizer, unknown: int) -> None:
    ids = np.asarray(tokenizer.encode("aéb 水"))
    assert not leaves_out(tokenizer)
    assert count_unknown(tokenizer, ids) == unknown


@pytest.mark.parametrize(
    "tokenizer", [made(models.BPE({"a": 0, "b": 1}, [])), some_bytes()], ids=["pieces", "bytes"]
)
def test_characters_that_are_left_out_are_counted(tokenizer: Tokenizer) -> None:
    assert leaves_out(tokenizer)
    assert count_left_out(tokenizer, ["aéb", "水 ab\n", "é"]) == 3
    assert count_unknown(tokenizer, np.asarray(tokenizer.encode("aéb"))) == 0


def test_characters_that_become_an_end_of_text_count_as_left_out() -> None:
    tokenizer = made(models.BPE({"</s>": 0, "a": 1}, [], unk_token="</s>"), eos=(0,))
    assert leaves_out(tokenizer)
    assert count_left_out(tokenizer, ["aéb"]) == 2
    assert count_unknown(tokenizer, np.asarray([0, 0, 1])) == 0


def test_what_is_lacking_is_described() -> None:
    tokenizer = train_tokenizer("char", ["ab"])
    assert describe_unknown(tokenizer, 0, 9, 0) == []
    first, second = describe_unknown(tokenizer, 3, 12, 5)
    assert first.startswith("3 of 12 tokens, 25 %, are <unk>")
    assert second.startswith("5 characters are left out")
