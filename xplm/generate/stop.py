"""Stop texts over text that arrives in pieces.

What may turn out to be the beginning of a stop text is held back until the next piece decides, so a caller never sees
a part of one. Where several stop texts match, the match that ends first wins, which makes the result independent of how
the text was cut into pieces.
"""

from collections.abc import Sequence


class StopFilter:
    """Passes text through until a stop text appears; owns what is held back."""

    def __init__(self, stop: Sequence[str]) -> None:
        """Watch for `stop`, texts that are not empty; none at all lets everything through at once."""
        self._stop = tuple(stop)
        self._held = ""
        self.is_stopped = False

    def push(self, text: str) -> str:
        """Take in a piece of text; return what can be shown now. After a stop text, nothing more comes out."""
        if self.is_stopped:
            return ""
        text = self._held + text

        matches = [(start + len(s), start) for s in self._stop if (start := text.find(s)) >= 0]
        if matches:
            self.is_stopped = True
            self._held = ""
            _, start = min(matches)
            return text[:start]

        n_held = max((_overlap(text, s) for s in self._stop), default=0)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held]

    def flush(self) -> str:
        """The text held back, once no more will come."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of text that is a beginning of stop, short of all of it."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
