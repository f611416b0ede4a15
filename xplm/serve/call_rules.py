"""Grammars of calls of tools, for each form of calls: Lark text, as llguidance takes it."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from xplm.errors import RequestError
from xplm.text.call_formats import (
    ARGS,
    TAGS,
    TOOL_CALLS,
    CallFormat,
    ChannelCalls,
    JsonTags,
    LlamaCalls,
    MistralCalls,
    XmlTags,
)
from xplm.text.thoughts import chat_templates
from xplm.text.tokenizer import Tokenizer
from xplm.text.tools import Tool

SPACE = r"[ ]|\n[ \t]{0,20}"
"""White space between tokens of JSON: bounded, for a model that has nothing to say would go on with it for ever."""

FREE_TEXT = "/(.|\\n)*/"


class _Body(NamedTuple):
    """The calls of a form, in Lark text."""

    call: str  # one, around the rule `tool`
    between: str | None = ""  # two; None: there is only one
    begin: str = ""  # in front of the first
    end: str = ""  # behind the last


def as_token(tokenizer: Tokenizer, marker: str) -> str:
    """A marker of replies in Lark text: the token that a tokenizer has for it, or else the text."""
    added = tokenizer.pipeline.get_added_tokens_decoder()
    token_id = next((i for i, token in added.items() if token.content == marker), None)
    return _quoted(marker) if token_id is None else f"<[{token_id}]>"


def json_rule(schema: Any) -> str:
    """What stands for JSON of a schema in Lark text.

    Raises:
        RequestError: the schema is no object.
    """
    if not isinstance(schema, Mapping):
        raise RequestError(f"a JSON schema must be an object; got {schema!r:.100}")
    return "%json " + json.dumps({**schema, "x-guidance": {"whitespace_pattern": SPACE}})


def call_rules(
    tokenizer: Tokenizer, form: CallFormat, tools: Sequence[Tool], *, several: bool
) -> str:
    """The rule `body` of at least one call, and those that it needs.

    Args:
        tokenizer: the model's.
        form: of its calls.
        tools: those that may be called.
        several: whether there may be more than one call.
    """
    rules = [f"tool{n}: {rule}\n" for n, rule in enumerate(_tool_rules(tokenizer, form, tools))]
    rules.append(f"tool: {' | '.join(f'tool{n}' for n in range(len(tools)))}\n")
    form_of = _BODIES[type(form)](tokenizer)
    more = f"({form_of.between} call)*" if several and form_of.between is not None else ""
    body = f"{form_of.begin} call {more} {form_of.end}"
    return f"body: {body}\ncall: {form_of.call}\n{''.join(rules)}"


def _tool_rules(tokenizer: Tokenizer, form: CallFormat, tools: Sequence[Tool]) -> Sequence[str]:
    if isinstance(form, XmlTags):
        return [_xml_rule(tool, n) for n, tool in enumerate(tools)]
    if isinstance(form, ChannelCalls):
        added = {token.content for token in tokenizer.pipeline.get_added_tokens_decoder().values()}
        kind = as_token(tokenizer, "<|constrain|>") + " " if "<|constrain|>" in added else ""
        message = as_token(tokenizer, "<|message|>")
        return [
            f'{_quoted(f"functions.{tool.name} ")} {kind}"json" {message} {json_rule(tool.parameters)}'
            for tool in tools
        ]
    if isinstance(form, MistralCalls) and _has_args(tokenizer):
        args = as_token(tokenizer, ARGS)
        return [f"{_quoted(tool.name)} {args} {json_rule(tool.parameters)}" for tool in tools]
    key = "parameters" if isinstance(form, LlamaCalls) else "arguments"
    begins = [f'{{"name": "{tool.name}", "{key}": ' for tool in tools]
    pairs = zip(begins, tools, strict=True)
    return [f'{_quoted(begin)} {json_rule(tool.parameters)} "}}"' for begin, tool in pairs]


def _xml_rule(tool: Tool, number: int) -> str:
    """A function and its arguments, in the order of the schema, and the rules of those that are texts.

    Raises:
        RequestError: the schema is malformed.
    """
    required = tool.parameters.get("required", [])
    if not isinstance(required, list):
        raise RequestError(f'"required" of "{tool.name}" must be a list; got {required!r:.100}')
    shared = {
        key: tool.parameters[key] for key in ("$defs", "definitions") if key in tool.parameters
    }
    parts, texts = [], []
    for n, (key, schema) in enumerate(tool.properties.items()):
        end = "\n</parameter>\n"
        if isinstance(schema, Mapping) and schema.get("type") == "string" and "enum" not in schema:
            name = f"text{number}_{n}"
            texts.append(f"\n{name}[suffix={_quoted(end)}]: {FREE_TEXT}")
            value = name
        elif isinstance(schema, Mapping) and _is_text_of_a_list(schema):
            value = f"({' | '.join(map(_quoted, map(str, schema['enum'])))}) {_quoted(end)}"
        else:
            given = {**schema, **shared} if isinstance(schema, Mapping) else schema
            value = f"{json_rule(given)} {_quoted(end)}"
        part = f"{_quoted(f'<parameter={key}>' + chr(10))} {value}"
        parts.append(part if key in required else f"({part})?")
    begin = _quoted(f"<function={tool.name}>\n")
    return f'{begin} {" ".join(parts)} "</function>"{"".join(texts)}'


def _is_text_of_a_list(schema: Mapping[str, Any]) -> bool:
    return schema.get("type") == "string" and isinstance(schema.get("enum"), list)


def _tagged(tokenizer: Tokenizer) -> _Body:
    begin, end = (as_token(tokenizer, tag) for tag in TAGS)
    return _Body(f'{begin} "\\n" tool "\\n" {end}', between='"\\n"')


def _mistral(tokenizer: Tokenizer) -> _Body:
    begin = as_token(tokenizer, TOOL_CALLS)
    if _has_args(tokenizer):
        return _Body(f"{begin} tool")
    return _Body("tool", between='", "', begin=f'{begin} " "? "["', end='"]"')


def _llama(tokenizer: Tokenizer) -> _Body:
    return _Body("tool", between='"; "')


def _channels(tokenizer: Tokenizer) -> _Body:
    return _Body(f'{as_token(tokenizer, "<|channel|>")} "commentary to=" tool', between=None)


_BODIES: Mapping[type, Callable[[Tokenizer], _Body]] = {
    JsonTags: _tagged,
    XmlTags: _tagged,
    MistralCalls: _mistral,
    LlamaCalls: _llama,
    ChannelCalls: _channels,
}


def _has_args(tokenizer: Tokenizer) -> bool:
    return ARGS in chat_templates(tokenizer)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
