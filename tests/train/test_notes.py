"""A run that does less than its recipe says, says it."""

import json

import pytest

from tests.train.runs import tiny_recipe
from xplm.text import trainable
from xplm.text.trainable import train_tokenizer, with_chat_template
from xplm.train.data import open_dataset
from xplm.train.notes import run_notes

ASK, LONG = {"role": "user", "content": "hi"}, {"role": "user", "content": "hi " * 30}
REPLY, LONG_REPLY = ({"role": "assistant", "content": "yo " * n} for n in (1, 30))


def notes(folder, recipe, steps=12):
    texts = "".join(path.read_text(encoding="utf-8") for path in folder.glob("text.*"))
    tokenizer = with_chat_template(train_tokenizer("char", [texts.replace("z", "")]))
    data = recipe.data
    dataset = open_dataset(
        folder / data.path, tokenizer, kind=data.kind, context=data.context, batch_size=2, n_micro=1,
        seed=0, held_out=data.held_out, packed=data.packed, cache=folder / "tokens",
    )  # fmt: skip
    return run_notes(recipe, tokenizer, dataset, steps)


def test_a_run_that_does_what_its_recipe_says_has_no_notes(tmp_path):
    assert notes(tmp_path, tiny_recipe(tmp_path)) == []


def test_chats_that_are_cut_or_left_out_are_counted_and_so_is_a_missing_validation(tmp_path):
    chats = [[LONG, REPLY]] * 3 + [[ASK, LONG_REPLY]] * 2 + [[ASK, REPLY]] * 2
    (tmp_path / "text.jsonl").write_text("\n".join(map(json.dumps, chats)), encoding="utf-8")
    chat = {"data__path": "text.jsonl", "data__kind": "chat", "data__context": 20}
    assert notes(tmp_path, tiny_recipe(tmp_path, **chat, data__held_out=0.3)) == [
        "2 of 7 chats are longer than data.context, 20, and lose their end",
        "3 of 7 chats have nothing to learn within data.context, 20, and are left out",
    ]
    few = notes(tmp_path, tiny_recipe(tmp_path, **chat, data__held_out=0.1))
    assert few[2].startswith("no validation: data.held_out, 0.1, of 4 chats")


def test_characters_that_the_tokenizer_lacks_are_counted(tmp_path):
    (tmp_path / "text.txt").write_text("az bz " * 50, encoding="utf-8")
    (note,) = notes(tmp_path, tiny_recipe(tmp_path))
    assert note.startswith("100 of 301 tokens, 33 %, are <unk>")


def test_an_opening_of_replies_that_is_not_learned_is_named(tmp_path, monkeypatch):
    (tmp_path / "text.jsonl").write_text(json.dumps([ASK, REPLY]), encoding="utf-8")
    chat = {"data__path": "text.jsonl", "data__kind": "chat", "data__held_out": 0.0}
    chat |= {"data__context": 20}
    recipe = tiny_recipe(tmp_path, **chat)
    assert notes(tmp_path, recipe) == ["no validation: data.held_out is 0"]
    opens = "'<|assistant|>' -}}\n{%- endif"
    thinks = trainable.CHAT_TEMPLATE.replace(opens, opens.replace("t|>", "t|><think>"))
    monkeypatch.setattr(trainable, "CHAT_TEMPLATE", thinks)
    assert notes(tmp_path, recipe)[1].startswith("the template opens a reply with '<think>', which")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data__held_out": 0.0}, "no validation: data.held_out is 0"),
        ({"schedule__warmup_steps": 12}, "the warm-up, 12 steps, does not end within the run, 12 steps"),
        ({"data__packed": True}, "data.packed is not read"),
        ({"train__epochs": 2.0}, "train.epochs is not read: train.steps is 12"),
        ({"train__init": "a"}, "[model] is not read: the model is that of a"),
        ({"data__tokenizer": "a", "data__vocab_size": 9}, "not read, for the tokenizer is that of a: data.vocab_size"),
    ],
)  # fmt: skip
def test_what_is_not_done_or_not_read_is_named(tmp_path, settings, message):
    (note,) = notes(tmp_path, tiny_recipe(tmp_path, **settings))
    assert note.startswith(message)


def test_a_tokenizer_beside_a_model_to_tune_is_named(tmp_path):
    recipe = tiny_recipe(tmp_path, train__init="a", data__tokenizer="char", data__vocab_size=9)
    assert "not read, for the tokenizer is that of a: data.tokenizer, data.vocab_size" in notes(
        tmp_path, recipe
    )
