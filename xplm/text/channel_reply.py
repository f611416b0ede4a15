"""Replies of several messages in channels: <|channel|>analysis<|message|> ... <|end|>.

Source: OpenAI's harmony response format.
"""

import re
from typing import NamedTuple

from xplm.text.reply_parts import Kind, Part


class ChannelMarkers(NamedTuple):
    """The characters that stand for the special tokens of a reply in channels."""

    start: str  # in front of a message: its role
    channel: str  # in front of the name of its channel
    message: str  # in front of its text
    end: str  # behind a message that another follows


class ChannelSplitter:
    """A reply of several messages, each with the name of its channel and, if it calls a tool, a recipient.

    analysis                     reasoning
    any with a recipient         a call
    final, commentary, or none   content
    """

    def __init__(self, markers: ChannelMarkers, begun: str = "") -> None:
        """Start in front of a message.

        Args:
            markers: characters, none of which a text can hold.
            begun: the beginning of the message that the prompt ends with.
        """
        self._markers = markers
        self._cut = re.compile("([" + re.escape("".join(markers)) + "])")
        self._role: str = ""  # of a header: what stands in front of the channel
        self._channel: str | None = None  # of a header: the channel, and what follows it
        self._kind: Kind | None = None  # of the message whose text comes; None: in a header
        self._recipient = ""
        self._begun: set[Kind] = set()  # kinds that have had text
        self._gap = ""  # in front of the next text of the kind
        self._has_channels = False  # once a marker was seen
        self.push(begun)
        self._n_begun = len(self._role)

    def push(self, text: str) -> list[Part]:
        """Take in a piece."""
        parts: list[Part] = []
        for piece in self._cut.split(text):
            if piece in self._markers:
                parts += self._pass_marker(piece)
            elif piece:
                parts += self._text(piece)
        return parts

    def flush(self) -> list[Part]:
        """A reply without any marker is content."""
        text, self._role = self._role[self._n_begun :], ""
        return [Part("content", text)] if text and not self._has_channels else []

    def _pass_marker(self, marker: str) -> list[Part]:
        self._has_channels = True
        if marker == self._markers.channel:
            self._channel = ""
        elif marker == self._markers.message:
            return self._open()
        else:
            self._kind, self._role, self._channel = None, "", None
        return []

    def _open(self) -> list[Part]:
        """Begin the text of a message. A call comes out even if it has none."""
        channel = self._channel or ""
        to = re.search(r"\bto=(\S+)", f"{self._role} {channel}")
        self._recipient = to[1] if to else ""
        name = (channel.split() or [""])[0]
        self._kind = "call" if to else "reasoning" if name == "analysis" else "content"
        self._gap = "\n\n" if self._kind in self._begun else ""
        return [Part("call", "", self._recipient)] if to else []

    def _text(self, text: str) -> list[Part]:
        if self._kind is None:
            if self._channel is None:
                self._role += text
            else:
                self._channel += text
            return []
        if self._kind == "call":
            return [Part("call", text, self._recipient)]
        text, self._gap = self._gap + text, ""
        self._begun.add(self._kind)
        return [Part(self._kind, text)]
