"""A conversation as a file: JSON, {"messages": [{"role": ..., "content": ...}, ...]}, as chat APIs spell it.

An assistant's message may have "reasoning_content", the thoughts before it.
"""

import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from xplm.checkpoint.files import replacing
from xplm.checkpoint.untrusted import parse_json, read_text
from xplm.errors import RequestError

if TYPE_CHECKING:
    from xplm.text.chat import Message


REASONING = "reasoning_content"
"""The key of an assistant's thoughts in a message."""


class Transcript(NamedTuple):
    """A conversation read back."""

    system: str | None
    turns: list[tuple[str, str, str]]  # (user, assistant, thoughts of the assistant)


def write_transcript(path: str | PathLike[str], messages: "Sequence[Message]") -> None:
    """Write a conversation; a file that is there is replaced as a whole.

    Raises:
        RequestError: the file cannot be written.
    """
    text = json.dumps({"messages": list(messages)}, ensure_ascii=False, indent=2)
    try:
        with replacing(Path(path)) as file:
            file.write(text.encode())
    except OSError as error:
        raise RequestError(f'cannot write "{path}": {error.strerror}') from error
    except ValueError as error:  # half a surrogate pair, or a zero byte in the path
        raise RequestError(
            f'cannot write "{path}": its name and the messages must be Unicode text; got {error}'
        ) from error


def read_transcript(path: str | PathLike[str]) -> Transcript:
    """Read what `write_transcript` wrote.

    Raises:
        RequestError: the file cannot be read, or is not such a conversation.
    """
    try:
        content = parse_json(read_text(Path(path)))
    except OSError as error:
        raise RequestError(f'cannot read "{path}": {error.strerror}') from error
    except ValueError as error:
        raise RequestError(
            f'"{path}" must be JSON in UTF-8, as save writes it; got: {error}'
        ) from error

    messages = content.get("messages") if isinstance(content, dict) else None
    if not isinstance(messages, list) or not all(_is_message(message) for message in messages):
        raise RequestError(
            f'"{path}" must hold {{"messages": [{{"role", "content"}}, ...]}}, as save writes it'
        )
    system = None
    if messages and messages[0]["role"] == "system":
        system = messages[0]["content"]
        messages = messages[1:]
    roles = [message["role"] for message in messages]
    if roles != ["user", "assistant"] * (len(roles) // 2):
        raise RequestError(
            f'the messages of "{path}" must alternate between user and assistant and end with '
            f"assistant, after at most one of system; got {', '.join(roles)}"
        )
    pairs = zip(messages[::2], messages[1::2], strict=True)
    turns = [(user["content"], said["content"], said.get(REASONING, "")) for user, said in pairs]
    return Transcript(system, turns)


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(text, str)
        for text in (value.get("role"), value.get("content"), value.get(REASONING, ""))
    )
