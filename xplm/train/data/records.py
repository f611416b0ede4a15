"""What a record of training data may be: a text, or a conversation.

    "..."                                                             a text
    {"text": "..."}                                                   a text
    {"messages": [{"role": ..., "content": ...}, ...], "tools": ...}  a conversation; the list alone is one too
    {"conversations": [{"from": "human", "value": "..."}, ...]}       a conversation, as ShareGPT writes it
    {"prompt": "...", "completion": "..."}                            a question and its answer
    {"prompt": [messages], "completion": [messages]}                  the same; the prompt's replies are not scored
    "User: ... Assistant: ... </s>"                                   a conversation of one or more turns

A key whose value is null counts as absent: a table that is written as JSON has every key in every record. A content is
a text, or a list of parts {"type": "text", "text": ...}, which are joined; beside tool calls it may be null. Other keys
of a message go to the chat template. A text may end with the marker </s>, as published data sets for small models have
it; the marker is not part of the text.
"""

import re
from typing import Any, NamedTuple

from xplm.checkpoint.untrusted import parse_json
from xplm.errors import DataError

END_MARKER = "</s>"

SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
}
"""Roles of a conversation by ShareGPT's names."""

FORMS = (
    '{"messages": [{"role": ..., "content": ...}, ...]}, {"conversations": [{"from": ..., "value": ...}, ...]}, '
    '{"prompt": ..., "completion": ...}'
)

_SPEAKER = re.compile(r"(?:^|(?<=\s))(User|Assistant):")


class Record(NamedTuple):
    """A line of a text file, or a value of a JSON list."""

    value: Any  # as JSON gives it; unchecked
    place: str  # where it stands, for messages


class Conversation(NamedTuple):
    """Messages of which one at least is a reply to learn."""

    messages: list[dict[str, Any]]  # "role", "content", and whatever else the template reads
    scored: list[bool]  # of each message: whether it is a reply to learn
    tools: list[Any] | None = None  # what the assistant may call, as the template takes it


def record_text(record: Record, *, of_chats: bool = False) -> str:
    """The text of a record; of a conversation, what is said in it, a line a message.

    Args:
        record: any.
        of_chats: take the conversation of a record that holds a text too.

    Raises:
        DataError: it has none.
    """
    value = _present(record.value)
    if isinstance(value, dict):
        if "text" in value and not (of_chats and _holds_messages(value)):
            value = value["text"]
        elif not _holds_turns(value) and _is_text_pair(value) and not of_chats:
            value = value["prompt"] + value["completion"]
    if not isinstance(value, str):
        messages, _ = _messages(value, record)
        if not messages and value != []:
            raise DataError(
                f'{record.place}, must be a text, {{"text": ...}}, {FORMS}; got {record.value!r:.80}'
            )
        value = "\n".join(m["content"] for m in messages if m["content"] is not None)
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise DataError(f"{record.place}, must be valid Unicode; got a lone surrogate")
    return without_end(value)


def record_conversation(record: Record) -> Conversation:
    """The conversation that a record holds.

    Raises:
        DataError: it holds none, or none with a reply of the assistant to learn.
    """
    value = _present(record.value)
    if isinstance(value, dict) and "text" in value and not _holds_messages(value):
        value = value["text"]
    n_read = 0
    if isinstance(value, str):
        messages = parse_turns(value)
    else:
        messages, n_read = _messages(value, record)
    for message in messages:
        _check(message, record)
    scored = [
        i >= n_read and message["role"] == "assistant" and _counts(message, record)
        for i, message in enumerate(messages)
    ]
    if not any(scored):
        raise DataError(
            f"{record.place}, must be a chat with a reply of the assistant to learn: {FORMS} or "
            f'"User: ... Assistant: ..."; got {record.value!r:.80}'
        )
    tools = value.get("tools") if isinstance(value, dict) else None
    return Conversation(messages, scored, _tools(tools, record))


def parse_turns(text: str) -> list[dict[str, Any]]:
    """The turns of "User: ... Assistant: ... </s>"; none if the text begins otherwise."""
    before, *parts = _SPEAKER.split(text)
    if before.strip():
        return []
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": who.lower(), "content": without_end(said).strip()} for who, said in pairs]


def without_end(text: str) -> str:
    """A text without the marker at its end."""
    body = text.rstrip()
    return body.removesuffix(END_MARKER).rstrip() if body.endswith(END_MARKER) else text


def _present(value: Any) -> Any:
    """An object without its null values."""
    return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value


def _holds_messages(value: dict[str, Any]) -> bool:
    return _holds_turns(value) or ("prompt" in value and "completion" in value)


def _holds_turns(value: dict[str, Any]) -> bool:
    return "messages" in value or "conversations" in value


def _is_text_pair(value: dict[str, Any]) -> bool:
    return isinstance(value.get("prompt"), str) and isinstance(value.get("completion"), str)


def _messages(value: Any, record: Record) -> tuple[list[dict[str, Any]], int]:
    """The messages of a record, none where it is not a conversation; how many are a prompt, not to be learned."""
    n_read = 0
    if isinstance(value, dict):
        if _holds_turns(value):
            turns = value["messages"] if "messages" in value else _sharegpt(value, record)
        elif _is_text_pair(value):
            turns = [
                {"role": "user", "content": value["prompt"]},
                {"role": "assistant", "content": value["completion"]},
            ]
        elif isinstance(value.get("prompt"), list) and isinstance(value.get("completion"), list):
            turns, n_read = value["prompt"] + value["completion"], len(value["prompt"])
        else:
            turns = None
    else:
        turns = value
    if not isinstance(turns, list) or not all(isinstance(message, dict) for message in turns):
        return [], 0
    return [_message(message, record) for message in turns], n_read


def _message(message: dict[str, Any], record: Record) -> dict[str, Any]:
    """A message without nulls but for its content, which is text where there is any."""
    found = _present(message)
    content = _content(found["content"], record) if "content" in found else None
    return found | {"content": content}


def _check(message: dict[str, Any], record: Record) -> None:
    """Refuse a message that a chat cannot have."""
    if not isinstance(message.get("role"), str):
        raise DataError(f"{record.place}, must have a role in each message; got {message!r:.80}")
    if message["content"] is None and not message.get("tool_calls"):
        raise DataError(
            f"{record.place}, must have a content, or tool calls, in each message; got {message!r:.80}"
        )


def _content(content: Any, record: Record) -> str:
    if isinstance(content, str):
        return content
    parts = [_present(part) for part in content] if isinstance(content, list) else []
    for part in parts:
        is_text = isinstance(part, dict) and isinstance(part.get("text"), str)
        if not is_text or part.get("type") != "text":
            raise DataError(
                f'{record.place}, must have parts {{"type": "text", "text": ...}} alone, for xplm trains on text; '
                f"got {part!r:.80}"
            )
    if not parts:
        raise DataError(
            f"{record.place}, must have a text or a list of parts as content; got {content!r:.80}"
        )
    return "".join(part["text"] for part in parts)


def _sharegpt(value: dict[str, Any], record: Record) -> Any:
    """ShareGPT's turns as messages; turns that are messages already stay as they are."""
    turns = value["conversations"]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        return None
    system = value.get("system")
    messages = [{"role": "system", "content": system}] if system else []
    return messages + [_turn(turn, record) for turn in turns]


def _turn(turn: dict[str, Any], record: Record) -> dict[str, Any]:
    if "role" in turn:
        return turn
    role = SPEAKERS.get(str(turn.get("from")))
    if role is None or not isinstance(turn.get("value"), str):
        raise DataError(
            f'{record.place}, must have turns {{"from": {" | ".join(SPEAKERS)}, "value": text}}; got {turn!r:.80}'
        )
    rest = {key: item for key, item in turn.items() if key not in ("from", "value")}
    return {"role": role, "content": turn["value"], **rest}


def _counts(message: dict[str, Any], record: Record) -> bool:
    """Whether a reply is to be learned, as its "weight" says."""
    weight = message.get("weight", 1)
    if weight not in (0, 1):
        raise DataError(f"{record.place}, must have a weight of 0 or 1; got {weight!r:.80}")
    return bool(weight)


def _tools(tools: Any, record: Record) -> list[Any] | None:
    """The tools of a record: a list, or the JSON of one; None where there are none."""
    if isinstance(tools, str) and tools:
        try:
            tools = parse_json(tools)
        except ValueError as cause:
            raise DataError(
                f"{record.place}, must have a JSON list of tools; got: {cause}"
            ) from cause
    if tools and not isinstance(tools, list):
        raise DataError(f"{record.place}, must have a list of tools; got {tools!r:.80}")
    return tools or None
