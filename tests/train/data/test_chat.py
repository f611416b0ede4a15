"""What the assistant says is scored, its end of turn too, and nothing else."""

import json
from pathlib import Path

import pytest

from tests.paths import SHARED
from xplm.errors import DataError, TemplateError
from xplm.models.head import IGNORE_INDEX
from xplm.text.chat_encoder import ChatEncoder
from xplm.text.tokenizer import Tokenizer
from xplm.text.trainable import train_tokenizer, with_chat_template
from xplm.train.data.chat import encode_chat as encode_conversation
from xplm.train.data.chat import read_chats
from xplm.train.data.examples import Example
from xplm.train.data.records import Record, record_conversation

CHATML = """\
{% for message in messages %}{{ '<|user|>' + message['role'] + '\n' + message['content'] + '</s>\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|user|>assistant\n' }}{% endif %}"""
FORGETFUL = """\
{% for message in messages %}<|user|>{{ message['content'] if loop.last else 'gone' }}</s>{% endfor %}\
{% if add_generation_prompt %}<|user|>{% endif %}"""
TURNS = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi!"},
    {"role": "assistant", "content": "Good day."},
    {"role": "user", "content": "Well?"},
    {"role": "assistant", "content": " Well </s>."},
]
RUSTGPT = SHARED / "data" / "rustgpt" / "chat_training_data.json"


@pytest.fixture(params=["char", "word", "bpe"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    texts = [turn[key] for turn in TURNS for key in ("role", "content")]
    vocab_size = 300 if request.param == "bpe" else None
    return with_chat_template(train_tokenizer(request.param, texts, vocab_size=vocab_size))


def scored_runs(tokenizer: Tokenizer, example: Example) -> list[str]:
    """The text of each unbroken run of targets."""
    runs: list[list[int]] = [[]]
    for target in example.targets.tolist():
        if target != IGNORE_INDEX:
            runs[-1].append(target)
        elif runs[-1]:
            runs.append([])
    return [tokenizer.decode(run, skip_special_tokens=False) for run in runs if run]


def encode_chat(encoder: ChatEncoder, messages: object) -> Example:
    return encode_conversation(encoder, record_conversation(Record(messages, "here")))


def with_template(tokenizer: Tokenizer, source: str) -> ChatEncoder:
    return ChatEncoder(Tokenizer(tokenizer.parts._replace(chat_template=source)))


def test_replies_and_their_ends_are_scored(tokenizer: Tokenizer) -> None:
    encoder = ChatEncoder(tokenizer)
    example = encode_chat(encoder, TURNS)
    first, second = scored_runs(tokenizer, example)
    assert first == "Good day.</s>"
    assert second.strip() == "Well </s>.</s>"
    assert (
        example.targets == tokenizer.eos_token_ids[0]
    ).sum() == 2  # one that is said is plain text
    assert [*example.ids.tolist(), example.targets[-1]] == encoder.encode(
        TURNS, add_generation_prompt=False
    )


def test_the_first_scored_token_is_the_one_that_inference_asks_for(tokenizer: Tokenizer) -> None:
    encoder = ChatEncoder(tokenizer)
    example = encode_chat(encoder, TURNS[:3])
    prompt = encoder.encode(TURNS[:2], add_generation_prompt=True)
    n_unscored = (example.targets == IGNORE_INDEX).sum()
    assert example.ids[: n_unscored + 1].tolist() == prompt


def test_a_line_break_behind_the_turn_is_not_scored(tokenizer: Tokenizer) -> None:
    encoder = with_template(tokenizer, CHATML)
    assert scored_runs(tokenizer, encode_chat(encoder, TURNS[:4])) == ["Good day.</s>"]


def test_a_turn_ends_where_the_template_ends_it(tokenizer: Tokenizer) -> None:
    encoder = with_template(tokenizer, CHATML.replace("</s>", "<|assistant|>"))
    runs = scored_runs(tokenizer, encode_chat(encoder, TURNS[:3]))
    assert runs == ["Good day.<|assistant|>"]


def test_a_question_without_an_answer_is_left_out(tokenizer: Tokenizer) -> None:
    encoder = ChatEncoder(tokenizer)
    assert str(encode_chat(encoder, TURNS[:4])) == str(encode_chat(encoder, TURNS[:3]))


CALLS = """\
{{ tools }}{% for message in messages %}<|user|>{{ message['content'] or '' }}{{ message['tool_calls'] }}</s>\
{% endfor %}{% if add_generation_prompt %}<|user|>{% endif %}"""


def test_tools_and_their_calls_must_be_shown_by_the_template(tokenizer: Tokenizer) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
    with_tools = {"messages": TURNS[1:3], "tools": [{"name": "f"}]}
    encoder = with_template(tokenizer, CALLS)
    shown = encode_chat(encoder, with_tools)
    assert len(shown.ids) > len(encode_chat(encoder, TURNS[1:3]).ids)
    assert encode_chat(encoder, [TURNS[1], call]).is_scored

    silent = with_template(tokenizer, CALLS.replace("{{ tools }}", "").replace("tool_calls", "x"))
    with pytest.raises(TemplateError, match="leaves out its tools"):
        encode_chat(silent, with_tools)
    with pytest.raises(TemplateError, match="leaves out its tool_calls"):
        encode_chat(silent, [TURNS[1], call])


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizer: Tokenizer) -> None:
    encoder = with_template(tokenizer, FORGETFUL)
    encode_chat(encoder, TURNS[1:3])
    with pytest.raises(TemplateError, match="leaves earlier turns as they are"):
        encode_chat(encoder, TURNS)


def test_chats_are_read_in_every_form(tmp_path: Path) -> None:
    pair = [{"role": "user", "content": "Hi: there"}, {"role": "assistant", "content": "Yes"}]
    records = [
        {"messages": pair},
        "User: Hi: there Assistant: Yes </s>",
        "User: Hi: there Assistant: Yes </s> User: Hi: there\nAssistant: Yes",
    ]
    (tmp_path / "a.json").write_text(json.dumps(records), encoding="utf-8")
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    (tmp_path / "c.txt").write_text(records[1] + "\n\n", encoding="utf-8")
    assert [chat.messages for chat in read_chats(tmp_path / "a.json")] == [pair, pair, pair * 2]
    assert [chat.messages for chat in read_chats(tmp_path)] == [pair, pair, pair * 2] * 2 + [pair]


@pytest.mark.parametrize(
    "record",
    [
        "no speakers",
        "Well. User: a Assistant: b",
        "User: never answered",
        {"text": "a"},
        {"messages": "a"},
        {"messages": [{"role": "assistant"}]},
        {"messages": [{"role": "user", "content": "a"}]},
        3,
    ],
)
def test_what_is_no_chat_is_named(tmp_path: Path, record: object) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps([record]), encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.json, item 1, must "):
        list(read_chats(file))


@pytest.mark.skipif(not RUSTGPT.exists(), reason=f"needs {RUSTGPT}")
def test_the_published_small_chats_come_back_word_for_word() -> None:
    chats = list(read_chats(RUSTGPT))
    texts = [turn["content"] for chat in chats for turn in chat.messages]
    tokenizer = with_chat_template(train_tokenizer("word", texts))
    encoder = ChatEncoder(tokenizer)
    assert len(chats) == 53
    for _, reply in [chat.messages for chat in chats]:
        assert reply["content"] == tokenizer.decode(tokenizer.encode(reply["content"]))
    for chat in chats:
        example = encode_conversation(encoder, chat)
        assert scored_runs(tokenizer, example) == [chat.messages[1]["content"] + "</s>"]
