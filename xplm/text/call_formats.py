"""How a model's replies call tools, as its chat template and its special tokens show it.

JsonTags        <tool_call>{"name": ..., "arguments": {...}}</tool_call>                           Hermes, Qwen
XmlTags         <tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>  Qwen3-Coder
MistralCalls    [TOOL_CALLS][{"name": ..., "arguments": {...}}, ...], or [TOOL_CALLS]NAME[ARGS]{...} of each
LlamaCalls      {"name": ..., "parameters": {...}} as the whole answer, several with ";" between   Llama 3
ChannelCalls    a message with a recipient, which `xplm.text.channel_reply` finds                  gpt-oss
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from xplm.text.call_reply import (
    CallError,
    LeadingCallSplitter,
    MarkedCallSplitter,
    as_call,
    read_json,
)
from xplm.text.reply_parts import Call, Part, WholeSplitter
from xplm.text.thoughts import Channels, ReplyFormat, Splitter, chat_templates, find_format
from xplm.text.tokenizer import Tokenizer
from xplm.text.tools import Tool

TAGS = ("<tool_call>", "</tool_call>")
TOOL_CALLS, ARGS, CALL_ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
PYTHON_TAG = "<|python_tag|>"

_LLAMA_PROMPT = re.compile(r'\{"name": function name, "parameters": dictionary of argument name')
_LLAMA_BEGINS = ('{"name"', '{"type"')
_FUNCTION = re.compile(r"\s*<function=([^>\n]+)>(.*)</function>\s*", re.DOTALL)
_PARAMETER = re.compile(r"\s*<parameter=([^>\n]+)>(.*?)</parameter>", re.DOTALL)


class CallFormat(Protocol):
    """The form of calls.

    Attributes:
        markers: texts that mark calls, some of which may be special tokens.
    """

    @property
    def markers(self) -> Sequence[str]:
        """Texts that mark calls, some of which may be special tokens."""

    def splitter(self, stand_ins: Mapping[str, str], tools: Sequence[Tool]) -> Splitter:
        """The splitter of an answer.

        Args:
            stand_ins: the characters that stand for markers that are special tokens.
            tools: those that may be called.
        """


class JsonTags(NamedTuple):
    """JSON between tags."""

    markers: Sequence[str] = TAGS

    def splitter(self, stand_ins: Mapping[str, str], tools: Sequence[Tool]) -> Splitter:
        """One call between two tags."""
        return _marked(self.markers, stand_ins, lambda text: [as_call(read_json(text))])


class XmlTags(NamedTuple):
    """The name and each argument in a tag of its own."""

    markers: Sequence[str] = TAGS

    def splitter(self, stand_ins: Mapping[str, str], tools: Sequence[Tool]) -> Splitter:
        """One call between two tags; the schema of a tool says which arguments are texts."""
        by_name = {tool.name: tool for tool in tools}
        return _marked(self.markers, stand_ins, lambda text: [_read_function(text, by_name)])


class MistralCalls(NamedTuple):
    """A list of calls behind a token, or a token in front of each."""

    markers: Sequence[str] = (TOOL_CALLS, ARGS, CALL_ID)

    def splitter(self, stand_ins: Mapping[str, str], tools: Sequence[Tool]) -> Splitter:
        """Calls up to the next token or the end."""

        def read(text: str) -> list[Call]:
            if text.lstrip().startswith("["):
                values = read_json(text)
                return [as_call(value) for value in values]
            name, brace, arguments = text.partition("{")
            name = name.partition(ARGS)[0].partition(CALL_ID)[0].strip()
            if not name or not brace:
                raise CallError
            return [as_call({"name": name, "arguments": read_json(brace + arguments)})]

        return _marked((TOOL_CALLS, ""), stand_ins, read)


class LlamaCalls(NamedTuple):
    """An answer that is JSON."""

    markers: Sequence[str] = (PYTHON_TAG,)

    def splitter(self, stand_ins: Mapping[str, str], tools: Sequence[Tool]) -> Splitter:
        """Calls of tools that are offered; any other JSON is text."""
        tag = stand_ins.get(PYTHON_TAG, PYTHON_TAG)
        names = {tool.name for tool in tools}

        def read(text: str) -> list[Call]:
            calls = [as_call(value) for value in _read_several(text.replace(tag, " "))]
            if not {call.recipient for call in calls} <= names:
                raise CallError
            return calls

        def may_begin(text: str) -> bool:
            start = text.lstrip()
            if tag.startswith(start):
                return True
            return _may_be_call(start.removeprefix(tag).lstrip())

        return LeadingCallSplitter(read, may_begin)


class ChannelCalls(NamedTuple):
    """Messages with a recipient."""

    markers: Sequence[str] = ()

    def splitter(self, stand_ins: Mapping[str, str], tools: Sequence[Tool]) -> Splitter:
        """One that finds no more, for the messages are told apart already."""
        return WholeSplitter()


class WithCalls(NamedTuple):
    """Replies that may call tools."""

    base: ReplyFormat  # of thoughts
    calls: CallFormat
    tools: Sequence[Tool]  # those that may be called
    special: Sequence[str]  # of the markers of calls, those that are special tokens

    @property
    def markers(self) -> Sequence[str]:
        """Those of thoughts, and those of calls."""
        return [*self.base.markers, *self.special]

    def ends_reply(self, token: str) -> bool:
        """Any token that is no marker does."""
        return self.base.ends_reply(token) and token not in self.special

    def splitter(self, prompt_ids: Sequence[int], stand_ins: Mapping[str, str]) -> Splitter:
        """Thoughts first, then calls in the answer."""
        return _Chained(
            self.base.splitter(prompt_ids, stand_ins),
            self.calls.splitter(stand_ins, self.tools),
            {stand_ins[marker]: marker for marker in self.special},
        )


class _Chained:
    """A splitter whose content another one splits; what stands for a token is spelled out where it marks nothing."""

    def __init__(self, first: Splitter, second: Splitter, spelled: Mapping[str, str]) -> None:
        self._first, self._second = first, second
        self._spelled = str.maketrans(dict(spelled))

    def push(self, text: str) -> list[Part]:
        return self._split(self._first.push(text))

    def flush(self) -> list[Part]:
        parts = self._split(self._first.flush())
        return [*parts, *map(self._spell, self._second.flush())]

    def _split(self, parts: Sequence[Part]) -> list[Part]:
        return [
            self._spell(each)
            for part in parts
            for each in (self._second.push(part.text) if part.kind == "content" else [part])
        ]

    def _spell(self, part: Part) -> Part:
        return part._replace(text=part.text.translate(self._spelled))


def find_call_format(tokenizer: Tokenizer) -> CallFormat | None:
    """The form of a model's calls; None where its chat template shows none that is known."""
    templates = chat_templates(tokenizer)
    if isinstance(find_format(tokenizer), Channels):
        return ChannelCalls()
    if "<function=" in templates and TAGS[0] in templates:
        return XmlTags()
    if TAGS[0] in templates and "<arg_key>" not in templates:  # which is another form
        return JsonTags()
    if TOOL_CALLS in templates:
        return MistralCalls()
    return LlamaCalls() if _LLAMA_PROMPT.search(templates) else None


def with_calls(tokenizer: Tokenizer, calls: CallFormat, tools: Sequence[Tool]) -> WithCalls:
    """The form of a model's replies to a request with tools."""
    special = [marker for marker in calls.markers if marker in tokenizer.special_token_ids]
    return WithCalls(find_format(tokenizer), calls, tools, special)


def tool_name(call: Call) -> str:
    """The name of the tool that a call is for; channels put "functions." in front of it."""
    return call.recipient.removeprefix("functions.")


def _marked(markers: Sequence[str], stand_ins: Mapping[str, str], read: Any) -> MarkedCallSplitter:
    begin, end = markers
    spelled = {character: marker for marker, character in stand_ins.items()}
    return MarkedCallSplitter(stand_ins.get(begin, begin), stand_ins.get(end, end), read, spelled)


def _read_function(text: str, tools: Mapping[str, Tool]) -> Call:
    function = _FUNCTION.fullmatch(text)
    if function is None:
        raise CallError(may_go_on="<function=" in text and "</function>" not in text)
    name, body = function[1].strip(), function[2]
    properties = tools[name].properties if name in tools else {}
    arguments, end = {}, 0
    while match := _PARAMETER.match(body, end):
        key, value = match[1].strip(), match[2].removeprefix("\n").removesuffix("\n")
        arguments[key] = _typed(value, properties.get(key))
        end = match.end()
    if body[end:].strip():
        raise CallError
    return Call(name, json.dumps(arguments, ensure_ascii=False))


def _typed(text: str, schema: Any) -> Any:
    """The value of an argument: a text where its schema says so or it is no JSON."""
    if isinstance(schema, Mapping) and schema.get("type") == "string":
        return text
    try:
        return read_json(text)
    except CallError:
        return text


def _read_several(text: str) -> list[Any]:
    """JSON values with white space or semicolons between them."""
    decoder, values, rest = json.JSONDecoder(), [], text.strip("; \t\r\n")
    while rest:
        try:
            value, end = decoder.raw_decode(rest)
        except (ValueError, RecursionError):
            raise CallError from None
        values.append(value)
        rest = rest[end:].lstrip("; \t\r\n")
    return values


def _may_be_call(text: str) -> bool:
    """Whether a text begins as an object of a call does, as far as it goes."""
    start = "".join(text[:64].split())
    return any(key.startswith(start) or start.startswith(key) for key in _LLAMA_BEGINS)
