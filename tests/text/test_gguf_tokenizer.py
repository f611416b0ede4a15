"""Tokenizers built from GGUF metadata: numbers that can be worked out by hand, then llama.cpp on the same file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.text.corpus import CORPUS
from tests.text.vocabularies import (
    SPACE,
    byte_level_metadata,
    sentencepiece_metadata,
    write_gguf,
)
from xplm.errors import TokenizerError
from xplm.text.pre_tokenizers import PRE_TOKENIZERS
from xplm.text.tokenizer import Tokenizer

PIECES = {
    SPACE: -9.0,
    "a": -8.0,
    "b": -7.0,
    "c": -6.0,
    "bc": -2.0,
    "ab": -3.0,
    "abc": -4.0,
    SPACE + "a": -5.0,
}


def pieces(tokenizer: Tokenizer, text: str, **options: bool) -> list[str]:
    ids = tokenizer.encode(text, **options)
    return [tokenizer.pipeline.id_to_token(token_id) for token_id in ids]


def random_texts(seed: int, count: int) -> list[str]:
    rng = np.random.default_rng(seed)
    alphabet = [*"abBeth Z1²٣\n\t\r '.!/你好éßǅʰ👍🏽\u200d\xa0\u3000-_<|>$^~", "<|im_end|>", "</s>"]
    return ["".join(rng.choice(alphabet, rng.integers(1, 30))) for _ in range(count)]


def assert_equal_to_llama_cpp(metadata: dict[str, Any], path: Path, texts: list[str]) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is the reference here")
    write_gguf(path, metadata)
    reference = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    tokenizer = Tokenizer.from_gguf(metadata)
    for text in texts:
        for special in (True, False):
            expected = reference.tokenize(text.encode(), add_bos=True, special=special)
            assert tokenizer.encode(text, allow_special=special) == expected, text
    reference.close()


@pytest.mark.parametrize(
    ("pre", "text", "expected"),
    [
        ("gpt-2", "ab 12", ["ab", "Ġ1", "2"]),
        ("smollm", "ab 12", ["ab", "Ġ", "1", "2"]),
        ("gpt-2", "a  b", ["a", "Ġ", "Ġ", "b"]),
        ("llama-bpe", "a 1234", ["<|im_start|>", "a", "Ġ", "12", "3", "4"]),
        ("qwen2", "a 12", ["a", "Ġ", "1", "2"]),
        ("default", "1234", ["12", "3", "4"]),
        ("tekken", "aB", ["<|im_start|>", "a", "B"]),
    ],
)
def test_pre_tokenizer_cuts_words(pre: str, text: str, expected: list[str]) -> None:
    tokenizer = Tokenizer.from_gguf(byte_level_metadata(pre, ["a b", "Ġ 1", "1 2", "a B", "Ġ Ġ"]))
    assert pieces(tokenizer, text) == expected


def test_merges_apply_in_their_order() -> None:
    first_bc = Tokenizer.from_gguf(byte_level_metadata("gpt-2", ["b c", "a b"]))
    first_ab = Tokenizer.from_gguf(byte_level_metadata("gpt-2", ["a b", "b c"]))
    assert pieces(first_bc, "abc") == ["a", "bc"]
    assert pieces(first_ab, "abc") == ["ab", "c"]


def test_a_word_that_is_a_token_needs_no_merges_where_the_pre_tokenizer_says_so() -> None:
    metadata = byte_level_metadata("gpt-2", ["a b", "b c"])
    metadata["tokenizer.ggml.tokens"].append("abc")
    metadata["tokenizer.ggml.token_type"].append(1)
    assert pieces(Tokenizer.from_gguf(metadata), "abc") == ["ab", "c"]
    metadata["tokenizer.ggml.pre"] = "llama-bpe"
    assert pieces(Tokenizer.from_gguf(metadata), "abc") == ["<|im_start|>", "abc"]


def test_qwen2_composes_characters_first() -> None:
    tokenizer = Tokenizer.from_gguf(byte_level_metadata("qwen2", []))
    assert tokenizer.encode("e\u0301") == tokenizer.encode("\u00e9")


def test_pieces_join_by_score() -> None:
    tokenizer = Tokenizer.from_gguf(sentencepiece_metadata(PIECES))
    assert pieces(tokenizer, "abc") == ["<s>", SPACE, "abc"]  # bc, then abc, and no piece "▁abc"
    assert pieces(tokenizer, "ac") == ["<s>", SPACE + "a", "c"]
    assert tokenizer.decode(tokenizer.encode("abc ac")) == "abc ac"


def test_unknown_characters_fall_back_to_bytes() -> None:
    tokenizer = Tokenizer.from_gguf(sentencepiece_metadata(PIECES))
    assert pieces(tokenizer, "é") == ["<s>", SPACE, "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(tokenizer.encode("aé你b")) == "aé你b"


def test_space_prefix_is_a_setting() -> None:
    tokenizer = Tokenizer.from_gguf(sentencepiece_metadata(PIECES, add_space_prefix=False))
    assert pieces(tokenizer, "ab a") == ["<s>", "ab", SPACE + "a"]
    assert tokenizer.decode(tokenizer.encode(" ab a")) == " ab a"


def test_runs_of_spaces_that_are_user_defined_join_first() -> None:
    pieces_of_spaces = {SPACE: -9.0, "  ": -1000.0, "   ": -1000.0, "a": -1.0, SPACE + "a": -2.0}
    metadata = sentencepiece_metadata(pieces_of_spaces, add_space_prefix=False)
    types = metadata["tokenizer.ggml.token_type"]
    for token in ("  ", "   "):
        types[metadata["tokenizer.ggml.tokens"].index(token)] = 4
    tokenizer = Tokenizer.from_gguf(metadata)
    for text, expected in {
        " a": [SPACE + "a"], "  a": [SPACE * 2, "a"], "   a": [SPACE * 3, "a"], f"a {SPACE}a": ["a", SPACE * 2, "a"],
    }.items():  # fmt: skip
        assert pieces(tokenizer, text, add_special_tokens=False) == expected
        assert tokenizer.decode(tokenizer.encode(text)) == text.replace(SPACE, " ")


def test_bos_and_eos_are_added_as_the_file_says() -> None:
    metadata = sentencepiece_metadata(PIECES, add_bos_token=False, add_eos_token=True)
    tokenizer = Tokenizer.from_gguf(metadata)
    assert pieces(tokenizer, "a") == [SPACE + "a", "</s>"]
    assert pieces(tokenizer, "a", add_special_tokens=False) == [SPACE + "a"]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids) == (1, (2,))


def test_every_id_that_ends_a_turn_is_an_eos() -> None:
    metadata = byte_level_metadata("llama-bpe", [])
    metadata |= {"tokenizer.ggml.eot_token_id": 0, "tokenizer.ggml.eom_token_id": 2}
    assert Tokenizer.from_gguf(metadata).eos_token_ids == (2, 0)


def test_a_file_without_a_pre_tokenizer_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    metadata = byte_level_metadata("default", ["1 2"])
    named = Tokenizer.from_gguf(metadata)
    del metadata["tokenizer.ggml.pre"]
    assert Tokenizer.from_gguf(metadata).encode("a 1234") == named.encode("a 1234")
    assert "no tokenizer.ggml.pre" in caplog.text


def test_without_scores_pieces_join_in_the_order_of_their_ids(
    caplog: pytest.LogCaptureFixture,
) -> None:
    order = [SPACE, "a", "b", "c", "bc", "ab", "abc", SPACE + "a"]
    scores = {piece: -float(rank) for rank, piece in enumerate(order)}
    metadata = sentencepiece_metadata(scores)
    scored = Tokenizer.from_gguf(metadata)
    del metadata["tokenizer.ggml.scores"]
    tokenizer = Tokenizer.from_gguf(metadata)
    for text in ("abc ac", "bcab", " aabbcc"):
        assert tokenizer.encode(text) == scored.encode(text)
    assert "no tokenizer.ggml.scores" in caplog.text


@pytest.mark.parametrize("make", [byte_level_metadata, sentencepiece_metadata])
def test_unused_tokens_may_be_empty(make: Any) -> None:
    metadata = make("gpt-2", ["a b"]) if make is byte_level_metadata else make(PIECES)
    full = Tokenizer.from_gguf(metadata)
    metadata = metadata | {
        "tokenizer.ggml.tokens": [*metadata["tokenizer.ggml.tokens"], "", "", ""],
        "tokenizer.ggml.token_type": [*metadata["tokenizer.ggml.token_type"], 5, 5, 1],
    }
    if "tokenizer.ggml.scores" in metadata:
        metadata["tokenizer.ggml.scores"] = [*metadata["tokenizer.ggml.scores"], 0.0, 0.0, 0.0]
    tokenizer = Tokenizer.from_gguf(metadata)
    assert tokenizer.vocab_size == full.vocab_size + 3
    for text in ("ab abc", "[EMPTY_5]", ""):
        assert tokenizer.encode(text) == full.encode(text)
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("model", [{}, {"tokenizer.ggml.model": "no_vocab"}])
def test_a_file_may_leave_its_tokenizer_out(
    model: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = Tokenizer.from_gguf(model | {"tokenizer.ggml.eos_token_id": 2})
    assert (tokenizer.vocab_size, tokenizer.decode([2, 3])) == (0, "")
    assert "takes and gives token ids alone" in caplog.text


FIRST_OF_ITS_KIND = {rules: pre for pre, rules in reversed(PRE_TOKENIZERS.items())}.values()


@pytest.mark.parametrize(
    "pre",
    [
        pre if pre in FIRST_OF_ITS_KIND else pytest.param(pre, marks=pytest.mark.nightly)
        for pre in PRE_TOKENIZERS
    ],
)
def test_byte_level_is_llama_cpp(
    smollm2_metadata: dict[str, Any], tmp_path: Path, pre: str
) -> None:
    metadata = byte_level_metadata(pre, smollm2_metadata["tokenizer.ggml.merges"][:3000])
    # llama.cpp does not compose characters, which Qwen2's own tokenizer does.
    corpus = [text for text in CORPUS if not (PRE_TOKENIZERS[pre].nfc and "\u0301" in text)]
    assert_equal_to_llama_cpp(metadata, tmp_path / "v.gguf", corpus + random_texts(1, 200))


@pytest.mark.parametrize("add_space_prefix", [True, False])
def test_sentencepiece_is_llama_cpp(tmp_path: Path, add_space_prefix: bool) -> None:
    rng = np.random.default_rng(2)
    letters = [SPACE, *"abethinors.,"]
    words = {"".join(rng.choice(letters, rng.integers(2, 5))) for _ in range(800)}
    order = [*letters, *sorted(words)]
    scores = dict(zip(order, -rng.permutation(len(order)).astype(float), strict=True))
    metadata = sentencepiece_metadata(scores, add_space_prefix=add_space_prefix)
    texts = [
        "".join(rng.choice([*letters[1:], " ", "é", "<user>", "</s>"], 20)) for _ in range(300)
    ]
    assert_equal_to_llama_cpp(metadata, tmp_path / "v.gguf", texts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "bert"}, 'model must be "gpt2" or "llama", got \'bert\''),
        ({"model": None}, "model must be str, got None"),
        ({"pre": "gemma9"}, "pre must be one of default, .*, got 'gemma9'"),
        ({"pre": 3}, "pre must be str, got 3"),
        ({"tokens": None}, "tokens must be list, got None"),
        ({"tokens": [1, 2]}, "tokens must be a list of str"),
        ({"tokens": ["a", "a"]}, "tokens must differ, got 1 repeated"),
        ({"tokens": []}, "bos_token_id must be below 0"),
        ({"token_type": [1]}, "token_type must have .* entries, one a token, got 1"),
        ({"merges": None}, "merges must be list"),
        ({"merges": ["ab"]}, 'merges must join two tokens into a third, got "ab"'),
        ({"merges": ["x y"]}, 'merges must join two tokens into a third, got "x y"'),
        ({"merges": [" "]}, "merges must join two tokens"),
        ({"bos_token_id": 10**6}, "bos_token_id must be below"),
        ({"bos_token_id": -1}, "bos_token_id must be below"),
        ({"bos_token_id": "1"}, "bos_token_id must be int"),
        ({"add_bos_token": 1}, "add_bos_token must be bool"),
    ],
)
def test_malformed_metadata_is_refused(change: dict[str, Any], message: str) -> None:
    metadata = byte_level_metadata("gpt-2", ["a b"])
    metadata |= {f"tokenizer.ggml.{key}": value for key, value in change.items()}
    with pytest.raises(TokenizerError, match=rf"tokenizer\.ggml\.{message}"):
        Tokenizer.from_gguf(metadata)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": [0.0]}, "scores must have .* entries, one a token, got 1"),
        ({"scores": None}, "scores must be list"),
        ({"tokens": ["<unk>", "<s>"]}, "eos_token_id must be below 2"),
    ],
)
def test_malformed_sentencepiece_is_refused(change: dict[str, Any], message: str) -> None:
    metadata = sentencepiece_metadata(PIECES)
    metadata |= {f"tokenizer.ggml.{key}": value for key, value in change.items()}
    with pytest.raises(TokenizerError, match=rf"tokenizer\.ggml\.{message}"):
        Tokenizer.from_gguf(metadata)


def test_chat_template_must_be_text() -> None:
    metadata = byte_level_metadata("gpt-2", []) | {"tokenizer.chat_template": 5}
    with pytest.raises(TokenizerError, match=r"tokenizer\.chat_template must be text, got 5"):
        Tokenizer.from_gguf(metadata)
