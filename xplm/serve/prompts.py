"""Prompts and messages as a request spells them."""

from collections.abc import Mapping, Sequence
from typing import Any

from xplm.generate.chat_format import OWN_NAMES, ChatFormat
from xplm.language_model import LanguageModel
from xplm.serve.errors import ApiError
from xplm.text.chat import Message
from xplm.text.tools import template_messages

TEXT_PARTS = ("text", "input_text", "output_text", "refusal")

Spelled = str | list[str | int | list[int]]
"""A text, its token ids, or a list of either."""


def split_prompts(given: Spelled, param: str) -> list[str | list[int]]:
    """The prompts of a request: one for a text or a list of ids, else one for each item.

    Raises:
        ApiError: there is none, or texts and ids are mixed.
    """
    if isinstance(given, str):
        return [given]
    if not given:
        raise ApiError(f"{param} must not be empty", param=param)
    if all(isinstance(item, int) for item in given):
        return [[item for item in given if isinstance(item, int)]]
    prompts = [item for item in given if not isinstance(item, int)]
    if len(prompts) < len(given):
        raise ApiError(f"{param} must be texts or token ids; got both in one list", param=param)
    return prompts


def prompt_ids(lm: LanguageModel, prompt: str | list[int]) -> list[int]:
    """The token ids of a prompt.

    Raises:
        RequestError: it is a text of far too many, or no valid Unicode.
    """
    if not isinstance(prompt, str):
        return prompt
    lm.tokenizer.require_fit(prompt, lm.engine.context)
    return lm.tokenizer.encode(prompt)


def plain_messages(messages: Sequence[Any], chat_format: ChatFormat) -> list[Message]:
    """Messages as templates take them: contents as texts, arguments of calls as objects, "developer" as a role that
    the template knows.

    Raises:
        ApiError: there is none, one is malformed, or holds an image or a sound.
        RequestError: a call is malformed.
    """
    if not messages:
        raise ApiError("messages must not be empty", param="messages")
    plain: list[Message] = []
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ApiError('a message must have a "role", a text', param="messages")
        role = message["role"]
        if role == "developer" and not chat_format.reads("developer"):
            role = "system"
        content = _text_of(message.get("content"))
        plain.append({**message, "role": role, "content": content})
    return template_messages(plain)


def template_args(
    given: Mapping[str, Any], chat_format: ChatFormat
) -> tuple[dict[str, Any], list[str]]:
    """Names for the template, and a warning for each that it does not read.

    Raises:
        ApiError: one is not the client's to give.
        RequestError: "chat_template" is no name.
    """
    kept, warnings = {}, []
    for name, value in given.items():
        if name in OWN_NAMES:
            raise ApiError(
                f"chat_template_kwargs must not have {', '.join(OWN_NAMES)}; got {name}",
                param="chat_template_kwargs",
            )
        if name == "chat_template" or chat_format.reads(name):
            chat_format.require_read(name, value)
            kept[name] = value
        else:
            warnings.append(f'the chat template does not read "{name[:80]}", which is ignored')
    return kept, warnings


def _text_of(content: Any) -> str:
    """The text of a message: its own, or that of its parts, one a line.

    Raises:
        ApiError: it is something else.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise ApiError("a message's content must be a text or a list of parts", param="messages")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in TEXT_PARTS:
            is_other = isinstance(kind, str)
            raise ApiError(
                f"this server reads texts; got a part of type {kind!r:.40}; leave it out",
                status=501 if is_other else 400,
                param="messages",
                code="unsupported_content" if is_other else None,
            )
        text = part.get("refusal" if kind == "refusal" else "text")
        if not isinstance(text, str):
            raise ApiError(f'a part of type {kind!r} must have a "text"', param="messages")
        texts.append(text)
    return "\n".join(texts)
