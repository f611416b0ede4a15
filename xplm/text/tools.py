"""Tools that a model may call, and the messages of calls, as OpenAI's API has them.

tools        [{"type": "function", "function": {"name": "weather", "parameters": {...JSON Schema...}}}]
tool_choice  "auto": the model decides; "none"; "required": it has to call one; {"type": "function", "function":
{"name": "weather"}}: it has to call this one
messages     {"role": "assistant", "tool_calls": [{"id": ..., "type": "function", "function": {"name": "weather",
"arguments": "{...JSON...}"}}]} and then {"role": "tool", "tool_call_id": ..., "content": ...}
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from xplm.errors import RequestError
from xplm.text.chat import Message

NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
"""Of a tool."""

MOST_TOOLS = 128

CHOICES = ("none", "auto", "required")


class Tool(NamedTuple):
    """What a call needs to know of a tool."""

    name: str
    parameters: Mapping[str, Any]  # JSON Schema of an object

    @property
    def properties(self) -> Mapping[str, Any]:
        """Schemas of the arguments, by name."""
        found = self.parameters.get("properties")
        return found if isinstance(found, Mapping) else {}


class Offer(NamedTuple):
    """The tools of a request."""

    tools: Sequence[Tool]  # those that may be called
    described: (
        Sequence[Mapping[str, Any]] | None
    )  # what the chat template is given as `tools`; None: none
    is_required: bool  # one of them has to be called


def read_offer(tools: Any, choice: Any = None) -> Offer:
    """The tools of a request.

    Args:
        tools: as OpenAI's API has them; None or an empty list: none.
        choice: `tool_choice`; None: "auto".

    Raises:
        RequestError: they are malformed, or the choice is of a tool that is not among them.
    """
    if tools is not None and not isinstance(tools, list):
        raise RequestError(f"tools must be a list; got {tools!r:.100}")
    described = tools or []
    if len(described) > MOST_TOOLS:
        raise RequestError(f"tools must be at most {MOST_TOOLS}; got {len(described)}")
    known = [_read_tool(tool) for tool in described]
    names = [tool.name for tool in known]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise RequestError(f'tools must have names of their own; got "{twice}" twice')
    chosen = _read_choice(choice)
    if chosen == "none" or (not known and chosen == "auto"):
        return Offer([], None, False)
    if not known:
        raise RequestError(f"tool_choice must come with tools; got {choice!r:.100} without")
    if chosen in CHOICES:
        return Offer(known, described, chosen == "required")
    chosen = chosen.removeprefix(_NAMED)
    if chosen not in names:
        raise RequestError(
            f'tool_choice must be one of the tools, {", ".join(names)}; got "{chosen}"'
        )
    return Offer([tool for tool in known if tool.name == chosen], described, True)


def template_messages(messages: Sequence[Message]) -> list[Message]:
    """Messages as chat templates read them: arguments of calls as objects, and no content as an empty one.

    Raises:
        RequestError: a call is malformed.
    """
    return [
        _for_template(message)
        if isinstance(message, Mapping) and "tool_calls" in message
        else message
        for message in messages
    ]


_NAMED = "name:"  # in front of a name, which could be "auto" too


def _read_tool(tool: Any) -> Tool:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or tool.get("type", "function") != "function":
        raise RequestError(
            'a tool must be {"type": "function", "function": {"name": ..., "parameters": ...}}; '
            f"got {tool!r:.100}"
        )
    name, parameters = function.get("name"), function.get("parameters")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise RequestError(
            f"a tool's name must be 1 to 64 letters, digits, dots, - and _; got {name!r:.100}"
        )
    if parameters is not None and not isinstance(parameters, Mapping):
        raise RequestError(f'parameters of "{name}" must be a JSON schema; got {parameters!r:.100}')
    return Tool(name, parameters or {"type": "object", "properties": {}})


def _read_choice(choice: Any) -> str:
    if choice is None:
        return "auto"
    if choice in CHOICES:
        return str(choice)
    function = choice.get("function") if isinstance(choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        raise RequestError(
            f'tool_choice must be {", ".join(CHOICES)} or {{"type": "function", "function": '
            f'{{"name": ...}}}}; got {choice!r:.100}'
        )
    return _NAMED + name


def _for_template(message: Message) -> Message:
    calls = message["tool_calls"]
    if calls is None or calls == []:
        return {name: value for name, value in message.items() if name != "tool_calls"}
    if not isinstance(calls, list):
        raise RequestError(f"tool_calls must be a list; got {calls!r:.100}")
    content = message.get("content")
    return {
        **message,
        "content": "" if content is None else content,
        "tool_calls": [_call_for_template(call) for call in calls],
    }


def _call_for_template(call: Any) -> Mapping[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RequestError(
            f'a call must be {{"function": {{"name": ..., "arguments": ...}}}}; got {call!r:.100}'
        )
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            arguments = None
    if not isinstance(arguments, Mapping):
        raise RequestError(
            f'arguments of a call of "{function["name"]}" must be a JSON object; '
            f"got {function.get('arguments')!r:.100}"
        )
    return {**call, "function": {**function, "arguments": arguments}}
