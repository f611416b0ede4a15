"""Answers of `/v1/chat/completions` as OpenAI writes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xplm.generate.result import Generation
from xplm.serve.calls import Calls, reason_of
from xplm.serve.envelope import Envelope
from xplm.serve.logprobs import TokenTexts
from xplm.serve.worker import Delta
from xplm.text.reply_parts import Kind, Part

NAMES: Mapping[Kind, str] = {"content": "content", "reasoning": "reasoning_content"}
"""The field of a message that a part of a reply goes to, by its kind."""


@dataclass
class ChatForm:
    """Answers as OpenAI writes them."""

    envelope: Envelope
    texts: TokenTexts
    has_logprobs: bool

    def __post_init__(self) -> None:
        """No call is out yet."""
        self._calls = Calls(self.envelope.token)

    def first(self) -> list[dict[str, Any]]:
        """One chunk for each choice, with its role."""
        delta = {"role": "assistant", "content": None}
        return [
            self.envelope.chunk([self._choice(index, delta)], is_first=index == 0)
            for index in range(self.envelope.n_choices)
        ]

    def chunks(self, delta: Delta) -> list[dict[str, Any]]:
        """One for each part, and one for the reason of the end."""
        deltas = [self._delta(delta.choice, part) for part in delta.parts]
        logprobs = None
        if self.has_logprobs and delta.ids:
            logprobs = self.texts.as_chat(delta.ids, delta.logprobs, delta.top)
            deltas = deltas or [{"content": ""}]
        choices = [
            self._choice(delta.choice, part, logprobs if n == 0 else None)
            for n, part in enumerate(deltas)
        ]
        if isinstance(delta.end, Generation):
            choices.append(self._choice(delta.choice, {}, None, reason_of(delta.end)))
        return [self.envelope.chunk([choice]) for choice in choices]

    def last(
        self, generations: Sequence[Generation], added: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """One with the usage, where it is asked for, and with what is added."""
        return self.envelope.last_chunks(generations, added)

    def whole(self, generations: Sequence[Generation]) -> dict[str, Any]:
        """All choices."""
        choices = []
        for index, found in enumerate(generations):
            message: dict[str, Any] = {"role": "assistant", "content": found.text}
            if found.reasoning:
                message["reasoning_content"] = found.reasoning
            if found.calls:
                message["tool_calls"] = self._calls.whole(index, found)
                message["content"] = found.text or None
            logprobs = None
            if self.has_logprobs:
                logprobs = self.texts.as_chat(found.token_ids, found.logprobs, found.top_logprobs)
            choices.append(
                {
                    "index": index,
                    "message": message,
                    "logprobs": logprobs,
                    "finish_reason": reason_of(found),
                }
            )
        return self.envelope.whole(choices, generations)

    def _delta(self, choice: int, part: Part) -> dict[str, Any]:
        if part.kind == "call":
            return self._calls.delta(choice, part)
        return {NAMES[part.kind]: part.text}

    def _choice(
        self,
        index: int,
        delta: dict[str, Any],
        logprobs: Any = None,
        reason: str | None = None,
    ) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
