"""Calls of tools in an answer, as OpenAI writes them."""

import hashlib
from collections import Counter
from typing import Any

from xplm.generate.result import Generation
from xplm.text.reply_parts import Part

NAMESPACE = "functions."
"""In front of the names of functions, in gpt-oss's replies."""

ID_CHARS = 9
"""Of a call's id: what Mistral's chat templates ask for."""


class Calls:
    """The calls of one response."""

    def __init__(self, token: str) -> None:
        """None yet.

        Args:
            token: the response's own.
        """
        self._token = token
        self._counts: Counter[int] = Counter()  # by choice, as far as a stream has come

    def delta(self, choice: int, part: Part) -> dict[str, Any]:
        """A part of a stream: the name, with which a call begins, or a piece of the arguments."""
        is_new = not part.text
        self._counts[choice] += is_new
        index = self._counts[choice] - 1
        if not is_new:
            return {"tool_calls": [{"index": index, "function": {"arguments": part.text}}]}
        call = self._call(choice, index, part.recipient, "")
        return {"tool_calls": [{"index": index} | call]}

    def whole(self, choice: int, found: Generation) -> list[dict[str, Any]]:
        """All calls of a choice."""
        return [
            self._call(choice, index, call.recipient, call.text)
            for index, call in enumerate(found.calls)
        ]

    def _call(self, choice: int, index: int, recipient: str, arguments: str) -> dict[str, Any]:
        named = f"{self._token}.{choice}.{index}".encode()
        function = {"name": recipient.removeprefix(NAMESPACE), "arguments": arguments}
        call_id = hashlib.blake2b(named).hexdigest()[:ID_CHARS]
        return {"id": call_id, "type": "function", "function": function}


def reason_of(found: Generation) -> str:
    """Why an answer ended, as OpenAI names it."""
    return "tool_calls" if found.calls and found.finish_reason == "stop" else found.finish_reason
