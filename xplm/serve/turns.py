"""One exchange of a conversation: as it is kept, and as the messages of a chat."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from xplm.generate.transcript import REASONING


class Token(msgspec.Struct, frozen=True, array_like=True):
    """One token of an answer; a log-probability is None where it is -inf."""

    id: int
    text: str
    logprob: float | None
    top: tuple[tuple[str, float | None], ...] = ()  # the likeliest in its place
    is_fragile: bool | None = None  # None: not measured, or a coin chose it


class Function(msgspec.Struct, frozen=True):
    """What is called."""

    name: str
    arguments: str  # JSON


class ToolCall(msgspec.Struct, frozen=True):
    """A call of a tool, as OpenAI's API has it."""

    id: str
    function: Function
    type: Literal["function"] = "function"


class ToolResult(msgspec.Struct, frozen=True):
    """What a call came to."""

    tool_call_id: str
    content: str


class Turn(msgspec.Struct, frozen=True):
    """One exchange: a text of the user's, or the results of what the turn before called, and what answered it."""

    user: str
    assistant: str
    reasoning_content: str = ""  # what the model thought before its answer
    finish_reason: str | None = None  # None: of an answer that was not generated here to its end
    tokens: tuple[Token, ...] = ()  # of an answer that was asked for with logprobs
    timings: dict[str, float] | None = None  # as in the response
    tool_results: tuple[ToolResult, ...] = ()  # before the user's text
    tool_calls: tuple[ToolCall, ...] = ()  # behind the answer's text


def asked(user: str, results: Sequence[ToolResult]) -> list[dict[str, Any]]:
    """The messages that a turn answers."""
    messages: list[dict[str, Any]] = [{"role": "tool", **_fields(result)} for result in results]
    if user or not results:
        messages.append({"role": "user", "content": user})
    return messages


def messages_of(system: str | None, turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """A conversation as a chat has it."""
    messages = [{"role": "system", "content": system}] if system else []
    for turn in turns:
        messages += asked(turn.user, turn.tool_results)
        answer: dict[str, Any] = {"role": "assistant", "content": turn.assistant}
        if turn.reasoning_content:
            answer[REASONING] = turn.reasoning_content
        if turn.tool_calls:
            answer["tool_calls"] = [_fields(call) for call in turn.tool_calls]
        messages.append(answer)
    return messages


def _fields(value: msgspec.Struct) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(value)
    return found
