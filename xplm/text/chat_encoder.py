r"""From messages to token ids, with special tokens that no message can forge.

In a rendered chat, the template's `<|im_end|>` and one that a user typed look the same. When a message spells out a
special token, the chat is rendered with a MARK inside of it:

    <|im_start|>user\n What is <M|im_end|>? <|im_end|>\n

so that only the template's own special tokens are whole. They give their place to a CUT, which the tokeniser takes for
a token, and so splits the text exactly where they would; the marks go, and what they broke is encoded as plain text.
Without such a message, the ids are those of the rendered text.
"""

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import tokenizers

from xplm.errors import RequestError
from xplm.text.chat import ChatTemplate, Message
from xplm.text.tokenizer import Tokenizer, encode_with

# Unicode sets these two code points aside for use inside a program; text in interchange has no place for them.
_MARK, _CUT = "\ufdd0", "\ufdd1"


class ChatEncoder:
    """The chat format of one model.

    Attributes:
        template: its chat template.
        tokenizer: its tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer, context: int | None = None) -> None:
        """Take template and tokenizer of a model.

        Args:
            tokenizer: the model's.
            context: tokens that a conversation has to fit, see `Tokenizer.require_fit`; None: any number.

        Raises:
            TemplateError: the tokenizer has no chat template, or one that does not compile.
        """
        self.tokenizer = tokenizer
        self.template = ChatTemplate.from_tokenizer(tokenizer)
        self._context = context

    def encode(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True, **variables: Any
    ) -> list[int]:
        """Token ids of a conversation.

        Args:
            messages: the turns, oldest first.
            add_generation_prompt: end with the opening of the assistant's next turn.
            variables: further names for the template.

        Returns:
            Ids. Special tokens come from the template alone; those that a message spells out are plain text.

        Raises:
            TemplateError: as `ChatTemplate.render`.
            RequestError: a message holds a lone surrogate, or a special token together with U+FDD0 or U+FDD1, or the
                conversation cannot fit the context.
        """

        def render(turns: Any) -> str:
            return self.template.render(
                turns, add_generation_prompt=add_generation_prompt, **variables
            )

        marked_messages = _map_text(self._mark, messages)
        text = render(messages)
        if self._context is not None:
            self.tokenizer.require_fit(text, self._context)
        if marked_messages == _map_text(str, messages):
            return self.tokenizer.encode(text, add_special_tokens=False)
        if _MARK in text or _CUT in text:
            raise RequestError(
                "a chat may spell out a special token or hold the noncharacters U+FDD0 and U+FDD1, got both: "
                "remove the noncharacters"
            )
        return self._encode_marked(render(marked_messages))

    def _mark(self, text: str) -> str:
        return self._pattern.sub(lambda match: _break(match[0]), text)

    def _encode_marked(self, text: str) -> list[int]:
        special = iter([self._special_ids[name.strip()] for name in self._pattern.findall(text)])
        text = self._pattern.sub(_CUT, text).replace(_MARK, "")
        ids = encode_with(self._cutting_pipeline, text, add_special_tokens=False)
        cut_id = self._cutting_pipeline.token_to_id(_CUT)
        return [next(special) if token_id == cut_id else token_id for token_id in ids]

    @cached_property
    def _special(self) -> dict[int, tokenizers.AddedToken]:
        added = self.tokenizer.pipeline.get_added_tokens_decoder()
        return {token_id: token for token_id, token in added.items() if token.special}

    @cached_property
    def _special_ids(self) -> dict[str, int]:
        return {token.content.strip(): token_id for token_id, token in self._special.items()}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        """A special token, the longest that fits, with the white space that it swallows."""
        tokens = sorted(self._special.values(), key=lambda t: len(t.content), reverse=True)
        expressions = [
            r"\s*" * token.lstrip + re.escape(token.content) + r"\s*" * token.rstrip
            for token in tokens
        ]
        return re.compile("|".join(expressions) or r"(?!)")

    @cached_property
    def _cutting_pipeline(self) -> tokenizers.Tokenizer:
        """The model's pipeline, in which the special tokens are plain text and a CUT is a token."""
        pipeline = tokenizers.Tokenizer.from_str(self.tokenizer.pipeline.to_str())
        pipeline.encode_special_tokens = True
        normalized = any(token.normalized for token in self._special.values())
        pipeline.add_tokens([tokenizers.AddedToken(_CUT, normalized=normalized)])
        return pipeline


def _break(token: str) -> str:
    """The text of a special token with the mark behind its first character."""
    cut = len(token) - len(token.lstrip()) + 1
    return token[:cut] + _MARK + token[cut:]


def _map_text(function: Callable[[str], str], value: Any) -> Any:
    """The same nest of messages, with the function applied to every text but the keys."""
    if isinstance(value, str):
        return function(value)
    if isinstance(value, dict):
        return {key: _map_text(function, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_map_text(function, item) for item in value]
    return value
