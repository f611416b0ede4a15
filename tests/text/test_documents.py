"""A model learns from the ids that it is given when it is used."""

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import processors

from tests.generate.tiny import tiny_model, tiny_tokenizer
from xplm.text import documents
from xplm.text.documents import encode_documents, encode_texts
from xplm.text.pieces import document_pieces
from xplm.text.tokenizer import Tokenizer
from xplm.train.data import open_dataset

BOS, EOS = 0, 1
TEXT = "To be, or not to be: that is <s> the question."


def surrounded(template: str) -> Tokenizer:
    """The tokenizer of single bytes with a post-processor."""
    tokenizer = tiny_tokenizer()
    special = [("<s>", BOS), ("</s>", EOS)]
    tokenizer.pipeline.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=special
    )
    return tokenizer


def learned(tokenizer: Tokenizer, folder: Path, kind: str, text: str) -> list[int]:
    """All ids of a text as training reads them."""
    (folder / "a.jsonl").write_text(json.dumps(text), encoding="utf-8")
    data = open_dataset(
        folder / "a.jsonl", tokenizer, kind=kind, context=len(text) + (kind == "lines"),
        batch_size=1, n_micro=1, seed=0, held_out=0.0, packed=False, cache=folder,
    )  # fmt: skip
    ids, targets = data.batch(0)
    return [*ids[0].tolist(), int(targets[0, -1])]


@pytest.mark.parametrize("kind", ["text", "lines"])
def test_training_reads_what_generate_and_perplexity_read_and_the_end(
    tmp_path: Path, kind: str
) -> None:
    text = TEXT.replace("<s>", "")
    lm = tiny_model()
    lm.tokenizer = surrounded("<s> $A")
    read = learned(lm.tokenizer, tmp_path, kind, text)
    prompt = lm.tokenizer.encode(text)
    assert prompt[0] == BOS
    whole = [*prompt, EOS]
    first = next(i for i in range(len(whole)) if whole[i : i + len(read)] == read)
    assert (first, len(read)) == (0, len(whole)) if kind == "lines" else first <= 1
    assert lm.perplexity(text).text_tokens == len(prompt)
    given = [lm.generate(tokens, max_new_tokens=4).logprobs for tokens in (text, prompt)]
    assert given[0] == given[1]


@pytest.mark.parametrize(
    ("template", "before", "after"),
    [("$A", [], [EOS]), ("<s> $A", [BOS], [EOS]), ("<s> $A </s>", [BOS], [EOS])],
)
def test_each_document_has_its_beginning_and_one_end(
    template: str, before: list[int], after: list[int]
) -> None:
    tokenizer = surrounded(template)
    inner = tokenizer.encode(TEXT, add_special_tokens=False, allow_special=False)
    assert BOS not in inner  # what a document spells out is plain text
    expected = [*before, *inner, *after]
    assert [ids.tolist() for ids in encode_texts(tokenizer, [TEXT, TEXT])] == [expected] * 2


def test_pieces_of_a_document_have_the_ids_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "BATCH_CHARS", 30)
    tokenizer = surrounded("<s> $A")
    pieces = [piece for text in (TEXT, "", TEXT) for piece in document_pieces(text, 10)]
    found = [*encode_documents(tokenizer, pieces)]
    assert len(found) > 10
    whole = np.concatenate([*encode_texts(tokenizer, [TEXT, "", TEXT])])
    np.testing.assert_array_equal(np.concatenate([piece.ids for piece in found]), whole)
