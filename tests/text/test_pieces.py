"""Long texts in pieces, and prompts that are refused before they are tokenised."""

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers

import xplm.text.tokenizer as module
from tests.generate.tiny import tiny_tokenizer
from tests.text.vocabularies import byte_level_metadata, sentencepiece_metadata
from xplm.errors import RequestError
from xplm.text.parts import TokenizerParts
from xplm.text.pieces import cut_text, find_cut
from xplm.text.tokenizer import CHARS_PER_TOKEN, Tokenizer
from xplm.text.trainable import train_tokenizer

PROSE = "It was late.\nThe cat, \n\n 3 dogs and\na man said:  'no'!\nSo\n" * 40


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("ab\ncd", 3),
        ("ab\ncd\n", 3),  # nothing follows the second break
        ("a\n\nb\nc", 5),
        ("a \nb c", 4),  # no break between two others: in front of a space
        ("abc", 3),
        (" abc", 4),
        ("\none", 4),
        ("", 0),
    ],
)
def test_a_text_is_cut_where_tokenizers_cut_it(text, cut):
    assert find_cut(text) == cut


@given(st.text("ab \n.,'"), st.integers(1, 9))
def test_pieces_are_the_text(text, n_chars):
    *pieces, last = cut_text(text, n_chars)
    assert "".join([*pieces, last]) == text
    assert all(0 < len(piece) <= n_chars for piece in pieces)
    assert len(last) <= n_chars


@pytest.fixture
def small_pieces(monkeypatch):
    """Pieces of 100 characters."""
    monkeypatch.setattr(module, "TEXT_PIECE", 100)
    monkeypatch.setattr(module, "PROMPT_PIECE", 100)


def byte_level(**flags):
    return Tokenizer.from_gguf(
        byte_level_metadata("gpt-2", ["a t", "Ġ c", "o g", "s a"])
        | {f"tokenizer.ggml.{name}": value for name, value in flags.items()}
    )


@pytest.mark.parametrize(
    "tokenizer",
    [
        byte_level(add_bos_token=True, add_eos_token=True),
        byte_level(),
        train_tokenizer("char", [PROSE]),
        train_tokenizer("word", [PROSE]),
        train_tokenizer("bpe", [PROSE], vocab_size=300),
    ],
)
def test_the_ids_of_pieces_are_those_of_the_text(tokenizer, small_pieces):
    ids = tokenizer.encode_long(PROSE)
    assert isinstance(ids, np.ndarray)
    assert ids.tolist() == tokenizer.encode(PROSE)
    assert tokenizer.encode_long("short").tolist() == tokenizer.encode("short")
    plain = tokenizer.encode_long(PROSE, add_special_tokens=False, allow_special=False)
    assert plain.tolist() == tokenizer.encode(PROSE, add_special_tokens=False, allow_special=False)


def test_a_tokenizer_that_begins_with_a_space_begins_every_piece_with_one(small_pieces):
    tokenizer = Tokenizer.from_gguf(sentencepiece_metadata({"\u2581": -1.0, "\n": -2.0}))
    ids = tokenizer.encode_long(PROSE)
    whole = tokenizer.encode(PROSE)
    assert ids[:10].tolist() == whole[:10]
    assert len(ids) - len(whole) == len(list(cut_text(PROSE, 100))) - 1


@pytest.fixture
def untouched(monkeypatch):
    """A tokenizer that must not tokenise."""

    def fail(self, *arguments, **options):
        raise AssertionError("the text is tokenised")

    tokenizer = tiny_tokenizer()
    monkeypatch.setattr(Tokenizer, "encode", fail)
    return tokenizer


def test_more_characters_than_a_context_has_room_for_are_refused_at_once(untouched):
    n_chars = 128 * CHARS_PER_TOKEN
    untouched.require_fit("x" * n_chars, 128)
    message = r"must fit the model's context of 128 tokens; got 131,073 characters; shorten it"
    with pytest.raises(RequestError, match=message):
        untouched.require_fit("x" * (n_chars + 1), 128)


def test_a_text_is_tokenised_until_it_is_twice_too_long(monkeypatch, small_pieces):
    tokenizer, seen = tiny_tokenizer(), []
    encode = Tokenizer.encode

    def count(self, text, **options):
        seen.append(len(text))
        return encode(self, text, **options)

    monkeypatch.setattr(Tokenizer, "encode", count)
    with pytest.raises(RequestError, match="200,000 characters, of which the first 400 make 400"):
        tokenizer.require_fit("x" * 200_000, 199)
    assert seen == [100] * 4
    tokenizer.require_fit("x" * 1000, 500)  # the ids will be counted


def long_token(content, length):
    """A byte-level BPE one token of which is `length` characters long."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {symbol: i for i, symbol in enumerate(alphabet)}
    merges, size = [], 1
    while size < length:
        merges.append((content * size, content * size))
        size *= 2
        vocab[content * size] = len(vocab)
    pipeline = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    pipeline.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return Tokenizer(TokenizerParts(pipeline, {}, (), None))


def test_a_text_of_very_long_tokens_is_not_refused():
    tokenizer = long_token("x", 2**13)
    text = "x" * 2**17  # 16 tokens, of 8192 characters each
    tokenizer.require_fit(text, 16)
    assert len(tokenizer.encode(text)) == 16
