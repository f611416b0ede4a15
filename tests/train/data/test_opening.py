"""From a path to a data set of each kind; and the data that the recipes ship."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from xplm.errors import DataError, TemplateError
from xplm.text.tokenizer import Tokenizer
from xplm.text.trainable import train_tokenizer, with_chat_template
from xplm.train.data import Dataset, open_dataset, read_texts
from xplm.train.recipe_names import RECIPES

FACTS, CHATS = (
    RECIPES["facts-chat"].parent / "data" / name for name in ("facts.txt", "facts-chat.jsonl")
)

Open = Callable[..., Dataset]


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return with_chat_template(train_tokenizer("word", read_texts([FACTS, CHATS])))


@pytest.fixture
def open_facts(words: Tokenizer, tmp_path: Path) -> Open:
    def opened(path: Path, kind: str, **changes: object) -> Dataset:
        options = {"context": 80, "batch_size": 4, "n_micro": 1, "seed": 0, "held_out": 0.0}
        options |= {"packed": False, "cache": tmp_path} | changes
        return open_dataset(path, options.pop("tokenizer", words), kind=kind, **options)

    return opened


def test_the_shipped_data_are_enough_and_in_two_languages() -> None:
    facts = FACTS.read_text(encoding="utf-8").splitlines()
    chats = [
        json.loads(line)["messages"] for line in CHATS.read_text(encoding="utf-8").splitlines()
    ]
    questions = [chat[0]["content"] for chat in chats]
    assert len(set(facts)) == len(facts) >= 60
    assert len(set(questions)) == len(questions) >= 80
    for texts in (facts, questions):
        assert sum(text.isascii() for text in texts) > 40
        assert sum(not text.isascii() for text in texts) > 20
    assert all([turn["role"] for turn in chat] == ["user", "assistant"] for chat in chats)


def test_every_shipped_word_is_known_and_every_text_comes_back(words: Tokenizer) -> None:
    texts = FACTS.read_text(encoding="utf-8").splitlines()
    for line in CHATS.read_text(encoding="utf-8").splitlines():
        texts += [turn["content"] for turn in json.loads(line)["messages"]]
    assert [words.decode(words.encode(text)) for text in texts] == texts


def test_text_is_windows_of_all_of_it(open_facts: Open, words: Tokenizer) -> None:
    data = open_facts(FACTS, "text", held_out=0.1)
    assert data.batch(0).ids.shape == (4, 80)
    n_held_out = sum(batch.n_targets for batch in data.validation())
    total = len(words.encode(FACTS.read_text(encoding="utf-8"))) + 1  # and its end
    assert n_held_out == round(total * 0.1) - 1


def test_lines_are_sequences(open_facts: Open, words: Tokenizer) -> None:
    data = open_facts(FACTS, "lines", batch_size=73)
    assert data.n_examples == 73
    ends = (data.batch(0).targets == words.eos_token_ids[0]).sum(axis=1)
    np.testing.assert_array_equal(ends, 1)


@pytest.mark.parametrize("packed", [False, True])
def test_chats_fit_the_recipes_context(open_facts: Open, packed: bool) -> None:
    data = open_facts(CHATS, "chat", packed=packed)
    assert data.report.n_cut == 0
    assert (data.n_examples < 84) == packed
    assert data.batch(0).ids.shape[1] <= 80


def test_a_chat_needs_a_template(open_facts: Open) -> None:
    with pytest.raises(TemplateError, match="chat template"):
        open_facts(CHATS, "chat", tokenizer=train_tokenizer("word", ["a"]))


def test_a_chat_that_its_template_refuses_is_named(open_facts: Open, tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    turns = [[("user", "a"), ("assistant", "b")], [("tool", "a"), ("assistant", "b")]]
    path.write_text(
        "\n".join(json.dumps([{"role": r, "content": c} for r, c in chat]) for chat in turns)
    )
    with pytest.raises(DataError, match=r"chat 2 of .*chats\.jsonl: .* got tool"):
        open_facts(path, "chat")


def test_an_unknown_kind_is_refused(open_facts: Open) -> None:
    with pytest.raises(DataError, match=r"text \| lines \| chat; got 'chats'"):
        open_facts(CHATS, "chats")


@pytest.mark.parametrize("kind", ["lines", "chat"])
def test_reading_records_shows_how_far_it_is(tmp_path, kind):
    path = tmp_path / "data.txt"
    path.write_text("User: a b Assistant: b a\n" * 300)
    tokenizer = with_chat_template(train_tokenizer("word", ["User Assistant : a b"]))
    seen = []
    open_dataset(
        path,
        tokenizer,
        kind=kind,
        context=32,
        batch_size=2,
        n_micro=1,
        seed=0,
        held_out=0.1,
        packed=False,
        cache=tmp_path,
        progress=lambda what, n_bytes, total_bytes: seen.append((n_bytes, total_bytes)),
    )
    size = path.stat().st_size
    assert len(seen) == 3  # at records 0 and 256, and at the end
    assert seen == sorted(seen)
    assert seen[-1] == (size, size)
