"""How a model's replies tell thoughts from the answer, as its special tokens and its chat template show it.

    tags       <think> ... </think> in front of the answer, or another pair of such a name: the template, or else the
               vocabulary, has the tag that ends a thought
    channels   <|channel|>analysis<|message|> ... <|end|> and further messages: the template writes the special tokens
               of OpenAI's harmony format

A marker that is a special token has no text in a reply; a character that no text can hold stands for it there.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from xplm.text.channel_reply import ChannelMarkers, ChannelSplitter
from xplm.text.reply_parts import Part, WholeSplitter
from xplm.text.tagged_reply import TagSplitter
from xplm.text.tokenizer import Tokenizer

_END_TAG = re.compile(r"</(?:\w+:)?think(?:ing)?>|\[/THINK\]|\u25c1/think\u25b7")
_CHANNEL_TOKENS = ChannelMarkers("<|start|>", "<|channel|>", "<|message|>", "<|end|>")
_TAIL_TOKENS = 32  # of a prompt: more than the longest tag and white space take
_KEYS = ("reasoning_content", "thinking", "reasoning")


class Splitter(Protocol):
    """Turns pieces of a reply's text into parts of it."""

    def push(self, text: str) -> list[Part]:
        """Take in a piece; return the parts that are certain now, none of them empty but a call's."""

    def flush(self) -> list[Part]:
        """The parts held back, once no more will come."""


class ReplyFormat(Protocol):
    """The form of a model's replies.

    Attributes:
        markers: special tokens whose place in a reply counts.
    """

    @property
    def markers(self) -> Sequence[str]:
        """Special tokens whose place in a reply counts."""

    def ends_reply(self, token: str) -> bool:
        """Whether a special token that the template puts behind a message ends a reply."""

    def splitter(self, prompt_ids: Sequence[int], stand_ins: Mapping[str, str]) -> Splitter:
        """The splitter of a reply.

        Args:
            prompt_ids: what it follows.
            stand_ins: the character that stands for each marker.
        """


class Plain(NamedTuple):
    """Replies without parts."""

    markers: Sequence[str] = ()

    def ends_reply(self, token: str) -> bool:
        """Any does."""
        return True

    def splitter(self, prompt_ids: Sequence[int], stand_ins: Mapping[str, str]) -> Splitter:
        """One that does not split."""
        return WholeSplitter()


class Tagged(NamedTuple):
    """Replies that may begin with a thought between two tags."""

    tokenizer: Tokenizer
    begin: str
    end: str
    markers: Sequence[str]

    def ends_reply(self, token: str) -> bool:
        """Any token but the tags does."""
        return token not in (self.begin, self.end)

    def splitter(self, prompt_ids: Sequence[int], stand_ins: Mapping[str, str]) -> Splitter:
        """One that begins in the thought where the prompt has opened it."""
        return TagSplitter(
            stand_ins.get(self.begin, self.begin),
            stand_ins.get(self.end, self.end),
            is_open=self.is_open(prompt_ids),
        )

    def is_open(self, prompt_ids: Sequence[int]) -> bool:
        """Whether a prompt ends inside of a thought."""
        tail = self.tokenizer.decode(prompt_ids[-_TAIL_TOKENS:], skip_special_tokens=False)
        return tail.rstrip().endswith(self.begin)


class Channels(NamedTuple):
    """Replies of several messages in channels."""

    tokenizer: Tokenizer
    markers: ChannelMarkers = _CHANNEL_TOKENS

    def ends_reply(self, token: str) -> bool:
        """Any token but those in and between messages does."""
        return token not in self.markers

    def splitter(self, prompt_ids: Sequence[int], stand_ins: Mapping[str, str]) -> Splitter:
        """One that has read the beginning of the message that the prompt ends with."""
        ids = {self.tokenizer.special_token_ids[token]: stand_ins[token] for token in self.markers}
        start = self.tokenizer.special_token_ids[self.markers.start]
        starts = [i for i, token in enumerate(prompt_ids) if token == start]
        begun = prompt_ids[starts[-1] + 1 :] if starts else []
        return ChannelSplitter(
            ChannelMarkers(*(stand_ins[token] for token in self.markers)),
            "".join(ids.get(token) or self.tokenizer.decode([token]) for token in begun),
        )


def find_format(tokenizer: Tokenizer) -> ReplyFormat:
    """The form of a model's replies."""
    templates = chat_templates(tokenizer)
    special = tokenizer.special_token_ids
    if set(_CHANNEL_TOKENS) <= special.keys() and _CHANNEL_TOKENS.channel in templates:
        return Channels(tokenizer)
    added = tokenizer.pipeline.get_added_tokens_decoder().values()
    end = _END_TAG.search(templates) or _END_TAG.search(" ".join(t.content for t in added))
    if not end:
        return Plain()
    tags = (end[0].replace("/", "", 1), end[0])
    return Tagged(tokenizer, *tags, markers=[tag for tag in tags if tag in special])


def reasoning_key(tokenizer: Tokenizer) -> str | None:
    """The name under which a model's templates read the thoughts of an earlier reply; None where they read none."""
    templates = chat_templates(tokenizer)
    return next((key for key in _KEYS if _is_read(key, templates)), None)


def chat_templates(tokenizer: Tokenizer) -> str:
    """The sources of all chat templates of a tokenizer."""
    return "\n".join([tokenizer.chat_template or "", *tokenizer.named_templates.values()])


def _is_read(key: str, template: str) -> bool:
    """Whether a template takes something's attribute or item of that name."""
    return bool(
        re.search(rf"\.{key}\b|\[\s*['\"]{key}['\"]\s*\]|get\(\s*['\"]{key}['\"]", template)
    )
