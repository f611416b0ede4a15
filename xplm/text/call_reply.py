"""Calls of tools in the text of a reply, as it comes.

A splitter takes the answer, thoughts already taken out, and gives its text and its calls. What may be the beginning of
a call is held back; a call comes out whole, once it has ended, as a part without text and one with its arguments. What
looks like a call and cannot be read as one is text. White space in front of, between and behind calls is in no part.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xplm.text.reply_parts import Call, Part

ReadCalls = Callable[[str], list[Call]]
"""Calls of the text between two markers. Raises CallError."""


class CallError(Exception):
    """A text is no call.

    Attributes:
        may_go_on: it may be the beginning of one, for it ends inside of a string.
    """

    def __init__(self, *, may_go_on: bool = False) -> None:
        """Say which."""
        super().__init__("no call")
        self.may_go_on = may_go_on


class MarkedCallSplitter:
    """Calls between two markers, or between one and the next or the end of the reply."""

    def __init__(self, begin: str, end: str, read: ReadCalls, spelled: Mapping[str, str]) -> None:
        """Start an answer.

        Args:
            begin: in front of a call.
            end: behind it; "": the next `begin`, or the end of the reply.
            read: reads what is in between.
            spelled: texts of the characters that stand for special tokens.
        """
        self._begin, self._end, self._read = begin, end, read
        self._spelled = str.maketrans(dict(spelled))
        self._held = ""
        self._gap = ""  # white space in front of `begin`
        self._is_call = False  # `begin` has come
        self._has_called = False  # the last part was a call
        self._searched = 0  # characters held in which no `end` makes a call

    def push(self, text: str) -> list[Part]:
        """Take in a piece."""
        self._held += text
        parts: list[Part] = []
        while True:
            found = self._call() if self._is_call else self._text()
            if found is None:
                return parts
            parts += found

    def flush(self) -> list[Part]:
        """What is held back."""
        held, self._held = self._held, ""
        if self._is_call:
            if not self._end:
                return self._take(held)
            return self._shown(self._gap + self._begin + held)
        return self._shown(held)

    def _text(self) -> list[Part] | None:
        if self._has_called:
            self._held = self._held.lstrip()
        text, begin, rest = self._held.partition(self._begin)
        if begin:
            self._held, self._is_call, self._searched = rest, True, 0
            shown = text.rstrip()
            self._gap = text[len(shown) :]
            return self._shown(shown)
        certain = text[: len(text) - _overlap(text, self._begin)].rstrip()
        self._held = text[len(certain) :]
        return self._shown(certain) or None

    def _call(self) -> list[Part] | None:
        end = self._end or self._begin
        at = self._held.find(end, self._searched)
        if at < 0:
            self._searched = max(self._searched, len(self._held) - len(end) + 1)
            return None
        body, rest = self._held[:at], self._held[at + len(end) :]
        try:
            parts = _parts(self._read(body.translate(self._spelled)))
        except CallError as error:
            if error.may_go_on:
                self._searched = at + len(end)
                return []
            parts = None
        self._held, self._is_call, self._searched = rest, not self._end, 0
        gap, self._gap = self._gap, ""
        if parts is None:
            return self._shown(gap + self._begin + body + self._end)
        self._has_called = True
        return parts

    def _take(self, body: str) -> list[Part]:
        """The calls of the last text behind a marker."""
        try:
            return _parts(self._read(body.translate(self._spelled)))
        except CallError:
            return self._shown(self._gap + self._begin + body)

    def _shown(self, text: str) -> list[Part]:
        if not text or (self._has_called and text.isspace()):
            return []
        self._has_called = False
        return [Part("content", text)]


class LeadingCallSplitter:
    """An answer that is nothing but JSON objects of calls, as Llama 3 writes them; any other is text."""

    def __init__(self, read: ReadCalls, may_begin: Callable[[str], bool]) -> None:
        """Start an answer.

        Args:
            read: reads the whole of it.
            may_begin: whether a text may be the beginning of calls.
        """
        self._read, self._may_begin = read, may_begin
        self._held = ""
        self._is_text = False

    def push(self, text: str) -> list[Part]:
        """Take in a piece."""
        self._held += text
        if not self._is_text and self._may_begin(self._held):
            return []
        self._is_text = True
        held, self._held = self._held, ""
        return [Part("content", held)] if held else []

    def flush(self) -> list[Part]:
        """The calls, or what is held back."""
        held, self._held = self._held, ""
        if not held:
            return []
        try:
            return _parts(self._read(held))
        except CallError:
            return [Part("content", held)]


def read_json(text: str) -> Any:
    """JSON, white space around it aside.

    Raises:
        CallError: it is not valid.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise CallError(may_go_on=error.msg.startswith("Unterminated string")) from None
    except (ValueError, RecursionError):  # an integer of too many digits; too deep
        raise CallError from None


def as_call(value: Any) -> Call:
    """The call that an object of a name and arguments, or parameters, stands for.

    Raises:
        CallError: it stands for none.
    """
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise CallError
    given = value.get("arguments", value.get("parameters", {}))
    if isinstance(given, str):
        given = read_json(given)
    if not isinstance(given, Mapping):
        raise CallError
    return Call(value["name"], json.dumps(given, ensure_ascii=False))


def _parts(calls: Sequence[Call]) -> list[Part]:
    """A part without text and one with the arguments for each.

    Raises:
        CallError: one is no valid Unicode: JSON can spell half a surrogate pair.
    """
    try:
        for call in calls:
            (call.recipient + call.text).encode()
    except UnicodeEncodeError:
        raise CallError from None
    return [Part("call", text, call.recipient) for call in calls for text in ("", call.text)]


def _overlap(text: str, marker: str) -> int:
    """The length of the longest end of text that is a beginning of marker, short of all of it."""
    longest = min(len(text), len(marker) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(marker[:n])), 0)
