r"""From messages to token ids, with special tokens that no message, tool or document can forge.

In a rendered chat, the template's `<|im_end|>` and one that a user typed look the same. When the texts that the
template is given spell out a special token, or hold what it could put together to one, the chat is rendered with a MARK
inside of it:

    <|im_start|>user\n What is <M|im_end|>? <|im_end|>\n

so that only the template's own special tokens are whole. They give their place to a CUT, which the tokeniser takes for
a token, and so splits the text exactly where they would; the marks go, and what they broke is encoded as plain text.
The template itself does not see the marks (`xplm.text.marked`): one that searches a message for a special token finds
it. Without such a text, the ids are those of the rendered text.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

import tokenizers

from xplm.errors import RequestError, TemplateError
from xplm.text.chat import ChatTemplate, Message, choose_template
from xplm.text.marked import MARK
from xplm.text.plain import plain_pipeline
from xplm.text.template_files import DEFAULT
from xplm.text.tokenizer import Tokenizer, encode_with

_CUT = "\ufdd1"  # like MARK, a code point that text in interchange has no place for
_PROBE = "xplm"  # an assistant's message


class ChatEncoder:
    """The chat format of one model.

    Attributes:
        tokenizer: its tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer, context: int | None = None) -> None:
        """Take templates and tokenizer of a model.

        Args:
            tokenizer: the model's.
            context: tokens that a conversation has to fit, see `Tokenizer.require_fit`; None: any number.

        Raises:
            TemplateError: the tokenizer has no chat template, or its default does not compile.
        """
        self.tokenizer = tokenizer
        self._context = context
        self._compiled: dict[str, ChatTemplate] = {}
        if tokenizer.chat_template is not None or not tokenizer.named_templates:
            self._compiled[DEFAULT] = ChatTemplate.from_tokenizer(tokenizer)

    @property
    def template(self) -> ChatTemplate:
        """The template for a chat without tools.

        Raises:
            TemplateError: there are several, none of them the default.
        """
        return self._template(choose_template(self.tokenizer, None, {}))

    @cached_property
    def turn_end_ids(self) -> tuple[int, ...]:
        """Special tokens that the templates put behind an assistant's message, white space aside.

        A template that takes no conversation of a user's and an assistant's message says nothing of them.
        """
        turns = [{"role": "user", "content": _PROBE}, {"role": "assistant", "content": _PROBE}]
        ends = []
        for name in dict.fromkeys((*self._compiled, *self.tokenizer.named_templates)):
            try:
                text = self._template(name).render(turns, add_generation_prompt=False)
            except TemplateError:
                continue
            _, said, rest = text.rpartition(_PROBE)
            end = self._pattern.match(rest.lstrip()) if said else None
            if end:
                ends.append(self._special_ids[end[0].strip()])
        return tuple(dict.fromkeys(ends))

    def encode(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        chat_template: str | None = None,
        **variables: Any,
    ) -> list[int]:
        """Token ids of a conversation.

        Args:
            messages: the turns, oldest first.
            add_generation_prompt: end with the opening of the assistant's next turn.
            chat_template: name of the template; None: "tool_use" for a chat with tools, where the model has one, else
                the default.
            variables: further names for the template, such as `tools` and `documents`.

        Returns:
            Ids. Special tokens come from the template alone; those that a message, a tool or a document spells out are
            plain text.

        Raises:
            TemplateError: as `ChatTemplate.render`, or there is no such template.
            RequestError: a message holds a lone surrogate, or a special token together with U+FDD0 or U+FDD1, or one
                that the template does something with that cannot be followed, or the conversation cannot fit the
                context.
        """
        template = self._template(choose_template(self.tokenizer, chat_template, variables))
        now = datetime.now()
        given = variables | {"messages": messages}
        rest = {"add_generation_prompt": add_generation_prompt}
        text = template.render_with(given | rest, now)
        if self._context is not None:
            self.tokenizer.require_fit(text, self._context)
        texts = list(_texts(given))
        spelled = next((match[0] for t in texts if (match := self._pattern.search(t))), None)
        if spelled or self._could_be_assembled(texts):
            marked = _map_text(self._mark, given)
            marked_text = template.render_with(marked | rest, now, is_marked=True)
            if spelled or self._count(marked_text) != self._count(text):
                _check_marked(marked_text, text, spelled)
                return self._encode_marked(marked_text)
        if self._is_forged_by_normalizer(texts):
            _check_marked(text, text, None)
            return self._encode_marked(text)
        return self.tokenizer.encode(text, add_special_tokens=False)

    def _template(self, name: str) -> ChatTemplate:
        if name not in self._compiled:
            source = self.tokenizer.named_templates[name]
            self._compiled[name] = ChatTemplate(source, self.tokenizer.special_tokens)
        return self._compiled[name]

    def _mark(self, text: str) -> str:
        """The text with a mark wherever a special token could begin, behind its first character."""
        return self._beginning.sub(lambda match: match[0] + MARK, text)

    def _could_be_assembled(self, texts: list[str]) -> bool:
        """Whether a template that cuts or joins texts could make a special token of them."""
        characters = set().union(*texts)
        return any(begin in characters and end in characters for begin, end in self._ends)

    def _count(self, text: str) -> int:
        return len(self._pattern.findall(text))

    def _is_forged_by_normalizer(self, texts: list[str]) -> bool:
        """Whether a text spells out a special token once it is normalized, as in other letters."""
        normalizer = self.tokenizer.pipeline.normalizer
        tokens = [token.content for token in self._special.values() if token.normalized]
        if normalizer is None or not tokens:
            return False
        tokens = [normalizer.normalize_str(token) for token in tokens]
        valid = (text.encode(errors="replace").decode() for text in texts)
        normalized = map(normalizer.normalize_str, valid)
        return any(token in text for text in normalized for token in tokens)

    def _encode_marked(self, text: str) -> list[int]:
        special = iter([self._special_ids[name.strip()] for name in self._pattern.findall(text)])
        text = self._pattern.sub(_CUT, text).replace(MARK, "")
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
        """A special token, the longest that fits, with the white space that it swallows.

        The mark of a token of one character is behind it.
        """
        tokens = sorted(self._special.values(), key=lambda t: len(t.content), reverse=True)
        expressions = []
        for token in tokens:
            text = re.escape(token.content) + f"(?!{MARK})" * (len(token.content) == 1)
            if token.single_word:
                text = rf"(?<!\w){text}(?!\w)"
            expressions.append(r"\s*" * token.lstrip + text + r"\s*" * token.rstrip)
        return re.compile("|".join(expressions) or r"(?!)")

    @cached_property
    def _ends(self) -> set[tuple[str, str]]:
        """The first and the last character of each special token."""
        return {(token[0], token[-1]) for token in self._special_ids if token}

    @cached_property
    def _beginning(self) -> re.Pattern[str]:
        """The first character of what could be a special token."""
        begins = sorted({re.escape(begin) for begin, _ in self._ends})
        return re.compile("|".join(begins) or r"(?!)")

    @cached_property
    def _cutting_pipeline(self) -> tokenizers.Tokenizer:
        """The model's pipeline, in which the special tokens are plain text and a CUT is a token."""
        pipeline = plain_pipeline(self.tokenizer.pipeline)
        normalized = any(token.normalized for token in self._special.values())
        pipeline.add_tokens([tokenizers.AddedToken(_CUT, normalized=normalized)])
        return pipeline


def _check_marked(marked_text: str, text: str, spelled: str | None) -> None:
    """Refuse a chat whose marks cannot tell the template's special tokens from others.

    Raises:
        RequestError: the text holds a mark of its own, or the template did something else with the marked texts.
    """
    if MARK in text or _CUT in text:
        raise RequestError(
            "a chat may spell out a special token or hold the noncharacters U+FDD0 and U+FDD1, got both: "
            "remove the noncharacters"
        )
    if marked_text.replace(MARK, "") != text:
        token = f"{spelled.strip()!r}" if spelled else "one that it puts together"
        raise RequestError(
            "a chat's template must treat a special token that a message, tool or document spells out as text, "
            f"and this one does not so with {token}: remove it from there"
        )


def _map_text(function: Callable[[str], str], value: Any) -> Any:
    """The same nest of texts, with the function applied to every one, keys included."""
    if isinstance(value, str):
        return function(value)
    if isinstance(value, Mapping):
        return {_map_text(function, key): _map_text(function, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_map_text(function, item) for item in value]
    return value


def _texts(value: Any) -> Iterator[str]:
    """Every text of a nest of them, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
