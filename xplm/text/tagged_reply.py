"""Replies with a thought between two tags in front of the answer: <think> ... </think>."""

from typing import Literal

from xplm.text.reply_parts import Part


class TagSplitter:
    """A thought between two tags at the beginning of a reply; what follows is content.

    A reply that begins with anything else is content from its first character.
    """

    def __init__(self, begin: str, end: str, *, is_open: bool) -> None:
        """Start a reply.

        Args:
            begin: the tag in front of a thought.
            end: the tag behind it.
            is_open: the prompt ended with `begin`.
        """
        self._begin = begin
        self._end = end
        self._held = ""
        self._state: Literal["begin", "thought", "answer", "content"] = (
            "thought" if is_open else "begin"
        )
        self._is_blank = True  # the thought so far is nothing but line breaks

    def push(self, text: str) -> list[Part]:
        """Take in a piece."""
        self._held += text
        parts: list[Part] = []
        if self._state == "begin":
            self._look_for_begin()
        if self._state == "thought":
            parts += self._think()
        if self._state == "answer":
            self._held = self._held.lstrip("\n")
            self._state = "content" if self._held else "answer"
        if self._state == "content" and self._held:
            parts.append(Part("content", self._held))
            self._held = ""
        return parts

    def flush(self) -> list[Part]:
        """What is held back: the beginning of a reply or of a tag, or line breaks behind a thought."""
        held, self._held = self._held, ""
        if self._state == "thought":
            held = held.strip("\n") if self._is_blank else held.rstrip("\n")
            return [Part("reasoning", held)] if held else []
        return [Part("content", held)] if held else []

    def _look_for_begin(self) -> None:
        start = self._held.lstrip()
        if start.startswith(self._begin):
            self._held = start.removeprefix(self._begin)
            self._state = "thought"
        elif not self._begin.startswith(start):
            self._state = "content"

    def _think(self) -> list[Part]:
        thought, end, rest = self._held.partition(self._end)
        if self._is_blank:
            thought = thought.lstrip("\n")
        if end:
            self._state = "answer"
            self._held, thought = rest, thought.rstrip("\n")
        else:
            n_held = _overlap(thought, self._end)
            certain = thought[: len(thought) - n_held].rstrip("\n")
            self._held, thought = thought[len(certain) :], certain
        self._is_blank = self._is_blank and not thought
        return [Part("reasoning", thought)] if thought else []


def _overlap(text: str, tag: str) -> int:
    """The length of the longest end of text that is a beginning of tag, short of all of it."""
    longest = min(len(text), len(tag) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(tag[:n])), 0)
