"""Chat templates: from a list of messages to the text that a model was tuned on.

A template is jinja2 source that comes with the checkpoint; `xplm.text.renderer` runs it where it can do no harm. The
text is the one that `apply_chat_template` of transformers gives; `xplm.text.chat_encoder` turns it into token ids.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from xplm.errors import TemplateError
from xplm.text import renderer
from xplm.text.template_files import DEFAULT
from xplm.text.tokenizer import Tokenizer

TOOL_USE = "tool_use"
"""The template for a chat with tools."""

Message = Mapping[str, Any]
"""{"role": "system" | "user" | "assistant" | ..., "content": text}, and whatever else the template reads."""


class ChatTemplate:
    """A chat template that compiles.

    Attributes:
        source: the template's text.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str] | None = None) -> None:
        """Compile a template, to see that it does.

        Args:
            source: jinja2 text.
            special_tokens: what the template sees under "bos_token", "eos_token", ...

        Raises:
            TemplateError: the source is not a template, or compiling it takes too much.
        """
        self.source = source
        self._special_tokens = dict(special_tokens or {})
        renderer.check(source)

    @classmethod
    def from_tokenizer(cls, tokenizer: Tokenizer) -> "ChatTemplate":
        """The default template that a tokenizer came with.

        Raises:
            TemplateError: it came with none, or with one that does not compile.
        """
        if tokenizer.chat_template is None:
            raise TemplateError(_lacking(tokenizer))
        return cls(tokenizer.chat_template, tokenizer.special_tokens)

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        now: datetime | None = None,
        **variables: Any,
    ) -> str:
        """The text of a conversation.

        Args:
            messages: the turns, oldest first.
            add_generation_prompt: end with the opening of the assistant's next turn.
            now: the date that the template may print; the wall clock if None.
            variables: further names for the template, such as `tools` or `enable_thinking`.

        Returns:
            The text, special tokens spelled out. One that a message spells out looks the same here as the template's
            own; `ChatEncoder` tells them apart.

        Raises:
            TemplateError: a message is malformed, or the template refuses it, fails, leaves the sandbox or runs away.
        """
        given = variables | {"messages": messages, "add_generation_prompt": add_generation_prompt}
        return self.render_with(given, now or datetime.now())

    def render_with(
        self, variables: Mapping[str, Any], now: datetime, *, is_marked: bool = False
    ) -> str:
        """As `render`, with "messages" and "add_generation_prompt" among the variables.

        Args:
            variables: names for the template.
            now: the date that the template may print.
            is_marked: texts with a mark in them are for the template what they are without; see `xplm.text.marked`.

        Raises:
            TemplateError: as `render`.
        """
        messages = variables["messages"]
        for message in messages:
            if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
                raise TemplateError(
                    f'a message is {{"role": ..., "content": ...}}, got {message!r:.100}'
                )
        given = {"tools": None, "documents": None} | self._special_tokens | dict(variables)
        try:
            plain = _plain(given | {"messages": list(messages)})
        except RecursionError:
            raise TemplateError("a message is nested too deep") from None
        return renderer.render(self.source, plain, now, is_marked=is_marked)


def choose_template(tokenizer: Tokenizer, name: str | None, variables: Mapping[str, Any]) -> str:
    """The name of a tokenizer's template for a chat, as transformers chooses it.

    Args:
        tokenizer: the model's.
        name: of the template that is asked for; None: "tool_use", where there is one and tools are given, or the
            default.
        variables: names for the template; `tools` is what decides.

    Raises:
        TemplateError: the tokenizer has no such template.
    """
    named = tokenizer.named_templates
    if name is None and named and variables.get("tools") is not None and TOOL_USE in named:
        name = TOOL_USE
    name = name or DEFAULT
    if name in named or (name == DEFAULT and tokenizer.chat_template is not None):
        return name
    raise TemplateError(_lacking(tokenizer))


def _lacking(tokenizer: Tokenizer) -> str:
    names = sorted(tokenizer.named_templates)
    if tokenizer.chat_template is not None:
        names.insert(0, DEFAULT)
    if not names:
        return (
            "a chat needs a chat template, and this model's tokenizer has none: "
            "take an instruction-tuned model, or generate from a plain prompt"
        )
    return (
        f"a chat needs one of this model's chat templates, {', '.join(names)}: "
        f"give the name of one as chat_template, or tools where {TOOL_USE} is among them"
    )


def _plain(value: Any) -> Any:
    """A copy in JSON's own types."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    raise TemplateError(f"a message holds JSON's types, got a {type(value).__name__}")
