"""Faults that the tokenizers library finds only at work are our error, whatever the tokenizer.json."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Pipeline
from tokenizers import decoders, models, normalizers, pre_tokenizers

from xplm.errors import TokenizerError
from xplm.text.faults import library_faults
from xplm.text.parts import TokenizerParts
from xplm.text.tokenizer import Tokenizer

VOCAB = {"a": 0, "b": 1}
WITHOUT_UNKNOWN = {
    "WordLevel": models.WordLevel(VOCAB, unk_token="[UNK]"),
    "WordPiece": models.WordPiece(VOCAB, unk_token="[UNK]"),
    "Unigram": models.Unigram([("a", -1.0), ("b", -1.0)]),
    "BPE": models.BPE(VOCAB, [], unk_token="[UNK]"),
}
WHOLE = {
    "WordLevel": models.WordLevel(VOCAB, unk_token="a"),
    "WordPiece": models.WordPiece(VOCAB, unk_token="a"),
    "Unigram": models.Unigram([("a", -1.0), ("b", -1.0)], unk_id=0),
    "BPE": models.BPE(VOCAB, [], unk_token="a"),
}


def write(path: Path, model: Any, **parts: Any) -> dict[str, Any]:
    """A tokenizer.json of a model, with parts put in that the library would not build."""
    pipeline = Pipeline(model)
    pipeline.normalizer = normalizers.NFC()
    pipeline.pre_tokenizer = pre_tokenizers.Whitespace()
    pipeline.decoder = decoders.Fuse()
    fields: dict[str, Any] = json.loads(pipeline.to_str()) | parts
    (path / "tokenizer.json").write_text(json.dumps(fields), encoding="utf-8")
    return fields


@pytest.mark.parametrize("kind", WITHOUT_UNKNOWN)
def test_an_unknown_token_that_is_missing_is_refused(tmp_path: Path, kind: str) -> None:
    write(tmp_path, WITHOUT_UNKNOWN[kind])
    with pytest.raises(TokenizerError, match=r"tokenizer\.json must be a tokenizer .*; got: \S"):
        Tokenizer.from_directory(tmp_path)


@pytest.mark.parametrize("kind", WITHOUT_UNKNOWN)
def test_a_text_that_cannot_be_encoded_is_our_error(kind: str) -> None:
    tokenizer = Tokenizer(TokenizerParts(Pipeline(WITHOUT_UNKNOWN[kind]), {}, (), None))
    assert tokenizer.encode("a") == [0]
    with pytest.raises(TokenizerError, match="a tokenizer must encode every text; got: ") as error:
        tokenizer.encode("z")
    assert "\n" not in str(error.value)


def test_a_panic_at_the_first_text_is_our_error(tmp_path: Path) -> None:
    write(tmp_path, WHOLE["BPE"], pre_tokenizer={"type": "FixedLength", "length": 0})
    with pytest.raises(TokenizerError, match="got: chunk size must be non-zero"):
        Tokenizer.from_directory(tmp_path)


@pytest.mark.parametrize("error", [KeyboardInterrupt, TypeError, MemoryError])
def test_what_is_not_the_librarys_passes(error: type[BaseException]) -> None:
    with pytest.raises(error), library_faults("nothing"):
        raise error


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything in a JSON value but itself."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return [
        found
        for key, item in items
        for found in [
            (*path, key),
            *(leaves(item, (*path, key)) if isinstance(item, dict | list) else []),
        ]
    ]


ODD = [None, True, 0, 1, -1, 2**40, 1.5, "", "a", "[UNK]", [], {}, ["a", "b"], {"a": 7}]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.data(), kind=st.sampled_from(sorted(WHOLE)))
def test_odd_values_in_a_tokenizer_json(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, kind: str
) -> None:
    directory = tmp_path_factory.mktemp("odd")
    fields = write(directory, WHOLE[kind])
    *parents, last = data.draw(st.sampled_from(leaves(fields)))
    place = fields
    for key in parents:
        place = place[key]
    place[last] = data.draw(st.sampled_from(ODD))
    (directory / "tokenizer.json").write_text(json.dumps(fields), encoding="utf-8")
    try:
        tokenizer = Tokenizer.from_directory(directory)
        text = tokenizer.decode(tokenizer.encode("ab ba é"))
    except TokenizerError as error:
        text = str(error)
    assert "\n" not in text
