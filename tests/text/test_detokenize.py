"""Streamed pieces are whole characters, and join to what decoding at once gives."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.text.corpus import CORPUS
from tests.text.vocabularies import SPACE, byte_level_metadata, sentencepiece_metadata
from xplm.text.detokenize import StreamDecoder
from xplm.text.tokenizer import Tokenizer

BYTE_LEVEL = Tokenizer.from_gguf(byte_level_metadata("gpt-2", ["a b", "Ã ©", "Ġ ð", "Ł ĳ", "© Ã"]))
SENTENCEPIECE = Tokenizer.from_gguf(
    sentencepiece_metadata(
        {SPACE: -3.0, "a": -4.0, SPACE + "a": -2.0, SPACE * 2: -1.0, "\ufffd": -5.0}
    )
)


def pieces(tokenizer: Tokenizer, ids: list[int], **options: bool) -> Iterator[str]:
    decoder = StreamDecoder(tokenizer, **options)
    for token_id in ids:
        yield decoder.push(token_id)
    yield decoder.flush()


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, SENTENCEPIECE], ids=["bytes", "sentencepiece"])
@pytest.mark.parametrize("text", CORPUS)
def test_text_comes_in_whole_characters(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    streamed = list(pieces(tokenizer, ids, skip_special_tokens=False))
    assert "".join(streamed) == text
    assert not any("\ufffd" in piece for piece in streamed)
    assert streamed[-1] == "" or tokenizer is SENTENCEPIECE


def test_a_character_waits_for_its_last_byte() -> None:
    ids = BYTE_LEVEL.encode("é👍a")
    assert len(ids) == 5  # é is merged, 👍 is ð and two bytes and one merged pair
    assert list(pieces(BYTE_LEVEL, ids)) == ["é", "", "", "👍", "a", ""]


def test_text_before_half_a_character_does_not_wait() -> None:
    ids = BYTE_LEVEL.encode(" 👍")
    assert next(pieces(BYTE_LEVEL, ids)) == " "
    assert "".join(pieces(BYTE_LEVEL, ids)) == " 👍"


def test_byte_fallback_waits_for_the_end_of_the_run() -> None:
    ids = SENTENCEPIECE.encode("éa", add_special_tokens=False)
    assert list(pieces(SENTENCEPIECE, ids)) == ["", "", "", "éa", ""][-len(ids) - 1 :]


def test_half_a_character_at_the_end_becomes_a_replacement() -> None:
    ids = BYTE_LEVEL.encode("a你")[:-1]
    assert list(pieces(BYTE_LEVEL, ids)) == ["a", "", "", "\ufffd"]


def test_special_tokens_are_left_out_or_shown() -> None:
    ids = BYTE_LEVEL.encode("a<|im_end|>b")
    assert list(pieces(BYTE_LEVEL, ids)) == ["a", "", "b", ""]
    shown = list(pieces(BYTE_LEVEL, ids, skip_special_tokens=False))
    assert shown == ["a", "<|im_end|>", "b", ""]


def test_a_decoder_is_empty_after_its_flush() -> None:
    decoder = StreamDecoder(SENTENCEPIECE)
    (id_of_a,) = SENTENCEPIECE.encode("a", add_special_tokens=False)
    assert [decoder.push(id_of_a), decoder.push(id_of_a), decoder.flush()] == ["a", " a", ""]
    assert decoder.push(id_of_a) == "a"


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, SENTENCEPIECE], ids=["bytes", "sentencepiece"])
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_ids_join_to_the_whole(tokenizer: Tokenizer, skip: bool, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 1), max_size=30))
    streamed = "".join(pieces(tokenizer, ids, skip_special_tokens=skip))
    assert streamed == tokenizer.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("name", ["smollm2", "story"])
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_ids_of_a_real_model_join_to_the_whole(
    request: pytest.FixtureRequest, name: str, data: st.DataObject
) -> None:
    tokenizer = request.getfixturevalue(name)
    common = st.integers(0, 400)  # special tokens and bytes
    ids = data.draw(st.lists(common | st.integers(0, tokenizer.vocab_size - 1), max_size=30))
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


def test_a_long_stream_keeps_a_short_window(smollm2: Tokenizer) -> None:
    decoder = StreamDecoder(smollm2)
    for token_id in smollm2.encode("The quick brown fox. " * 200):
        decoder.push(token_id)
        assert len(decoder._window) <= 4  # the context and what waits; else a long answer gets slow
