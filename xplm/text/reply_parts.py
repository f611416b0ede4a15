"""The parts of a reply: what a model thinks, what it answers, and what it sends to a tool.

A splitter takes the text of a reply as it comes, in pieces of any length, and says which part each piece belongs to.
Text that may turn out to be the beginning of a marker is held back. Markers, and line breaks around thoughts, are in no
part. `xplm.text.thoughts` chooses the splitter of a model.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

Kind = Literal["content", "reasoning", "call"]
"""content: the answer. reasoning: thoughts on the way to it. call: what is sent to a tool."""


class Part(NamedTuple):
    """A piece of a reply."""

    kind: Kind
    text: str
    recipient: str = ""  # of a call: name of the tool


class WholeSplitter:
    """A reply without parts: all of it is content."""

    def push(self, text: str) -> list[Part]:
        """The text as it is."""
        return [Part("content", text)] if text else []

    def flush(self) -> list[Part]:
        """Nothing is held back."""
        return []


@dataclass(frozen=True)
class Call:
    """What a reply sends to a tool."""

    recipient: str
    """Name of the tool, such as "functions.weather"."""
    text: str
    """Its arguments, JSON as a rule."""


def merge_parts(parts: Iterable[Part]) -> list[Part]:
    """The same parts, neighbours of one kind as one. A call begins with a part that has no text."""
    merged: list[Part] = []
    for part in parts:
        if merged and part.text and part.kind == merged[-1].kind:
            merged[-1] = part._replace(text=merged[-1].text + part.text)
        else:
            merged.append(part)
    return merged


def join_calls(parts: Iterable[Part]) -> list[Call]:
    """The calls among parts."""
    calls = (part for part in merge_parts(parts) if part.kind == "call")
    return [Call(part.recipient, part.text) for part in calls]
