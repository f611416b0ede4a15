"""The forms that texts and conversations come in, and what is refused of them."""

from typing import Any

import pytest

from xplm.errors import DataError
from xplm.train.data.records import Record, record_conversation, record_text

HI, YES = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}
PARTS = [{"type": "text", "text": "h", "image": None}, {"type": "text", "text": "i"}]
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
FOUND = {"role": "tool", "content": "3"}


def conversation(value: Any) -> Any:
    return record_conversation(Record(value, "here"))


def text(value: Any, **options: bool) -> str:
    return record_text(Record(value, "here"), **options)


@pytest.mark.parametrize(
    "value",
    [
        [HI, YES],
        {"messages": [HI, YES], "text": "other", "prompt": "hi"},
        {"text": None, "messages": [HI | {"tool_calls": None, "name": None}, YES], "tools": None},
        {"messages": [{"role": "user", "content": PARTS}, YES]},
        {"messages": None, "prompt": "hi", "completion": "yes"},
        {"prompt": [HI], "completion": [YES]},
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}]},
        {"conversations": [HI, YES], "system": None},
        {"text": "User: hi Assistant: yes </s>"},
        "User: hi\nAssistant: yes",
    ],
    ids=str,
)
def test_a_conversation_is_read_in_every_form(value: Any) -> None:
    assert conversation(value) == ([HI, YES], [False, True], None)
    assert text(value, of_chats=True).split() in (
        ["hi", "yes"], ["User:", "hi", "Assistant:", "yes"],
    )  # fmt: skip


def test_sharegpt_has_systems_and_tools() -> None:
    turns = [{"from": "human", "value": "hi"}, {"from": "observation", "value": "3"}]
    value = {
        "conversations": [*turns, {"from": "gpt", "value": "yes", "weight": None}],
        "system": "s",
    }
    assert conversation(value).messages == [{"role": "system", "content": "s"}, HI, FOUND, YES]


def test_tool_calls_need_no_content_and_tools_are_kept() -> None:
    found = conversation({"messages": [HI, CALL, FOUND, YES], "tools": '[{"name": "f"}]'})
    assert found.messages == [HI, CALL, FOUND, YES]
    assert found.tools == [{"name": "f"}]
    without = {key: value for key, value in CALL.items() if key != "content"}
    assert conversation([HI, without]).messages == [HI, CALL]


def test_only_replies_that_are_to_be_learned_are_scored() -> None:
    assert conversation({"prompt": [HI, YES, HI], "completion": [YES]}).scored == [False] * 3 + [
        True
    ]
    assert conversation([HI, YES | {"weight": 0}, HI, YES | {"weight": 1}]).scored[1:] == [
        False, False, True,
    ]  # fmt: skip
    with pytest.raises(DataError, match="a reply of the assistant to learn"):
        conversation([HI, YES | {"weight": 0}])


def test_a_text_comes_before_a_conversation_where_texts_are_wanted() -> None:
    both = {"text": "t </s>", "messages": [HI, YES]}
    assert (text(both), text(both, of_chats=True)) == ("t", "hi\nyes")
    assert text({"text": None, "messages": [HI, CALL]}) == "hi"
    assert text({"prompt": "1 + 1 =", "completion": " 2"}) == "1 + 1 = 2"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"text": None}, "must be a chat"),
        ({"messages": [HI, {"role": "assistant", "content": None}]}, "a content, or tool calls"),
        ({"messages": [HI, {"content": "yes"}]}, "a role in each message"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}, YES]}, "parts .*got {'type': 'image'}"),
        ({"messages": [{"role": "user", "content": []}, YES]}, "a text or a list of parts"),
        ({"messages": [HI, YES | {"weight": 0.5}]}, "a weight of 0 or 1"),
        ({"messages": [HI, YES], "tools": "[1"}, "a JSON list of tools"),
        ({"messages": [HI, YES], "tools": {"a": 1}}, "a list of tools"),
        ({"conversations": [{"from": "function_call", "value": "{}"}]}, "must have turns"),
        ({"conversations": [{"from": "gpt", "value": None}]}, "must have turns"),
        ({"prompt": "hi"}, "must be a chat"),
        ({"chosen": [HI, YES], "rejected": [HI, YES]}, "must be a chat"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused_by_name(value: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"here, {message}|here, must have {message}"):
        conversation(value)


def test_what_has_no_text_is_refused() -> None:
    for value in ({"text": None}, {"prompt": "a"}, None, 3, {"instruction": "a", "output": "b"}):
        with pytest.raises(DataError, match="must be a text, "):
            text(value)
