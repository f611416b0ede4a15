"""Chat templates: from a list of messages to the text that a model was tuned on.

A template is jinja2 source that comes with the checkpoint; `xplm.text.renderer` runs it where it can do no harm. The
text is the one that `apply_chat_template` of transformers gives; `xplm.text.chat_encoder` turns it into token ids.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from xplm.errors import TemplateError
from xplm.text import renderer
from xplm.text.tokenizer import Tokenizer

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
        """The template that a tokenizer came with.

        Raises:
            TemplateError: it came with none, or with one that does not compile.
        """
        if tokenizer.chat_template is None:
            raise TemplateError(
                "a chat needs a chat template, and this model's tokenizer has none: "
                "take an instruction-tuned model, or generate from a plain prompt"
            )
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
        for message in messages:
            if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
                raise TemplateError(
                    f'a message is {{"role": ..., "content": ...}}, got {message!r:.100}'
                )
        given = {"tools": None, "documents": None} | self._special_tokens | variables
        given |= {"messages": list(messages), "add_generation_prompt": add_generation_prompt}
        try:
            plain = _plain(given)
        except RecursionError:
            raise TemplateError("a message is nested too deep") from None
        return renderer.render(self.source, plain, now or datetime.now())


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
