"""Stop texts over text that arrives in pieces.

What may turn out to be the beginning of a stop text is held back until the next piece decides, so a caller never sees
a part of one. Where several stop texts match, the match that ends first wins, which makes the result independent of how
the text was cut into pieces.

A reply's text lacks its special tokens. Where a stop text holds one, half a surrogate pair, which no text can hold,
stands for it, both there and in the text that is searched; it does not come out, unless it marks a part of the reply.
"""

import re
from collections.abc import Mapping, Sequence

from xplm.errors import RequestError

_FIRST_STAND_IN, _N_STAND_INS = 0xD800, 2048
_STAND_INS = re.compile("[\ud800-\udfff]")


def hide_special(
    stop: Sequence[str], special: Mapping[str, int], markers: Sequence[str] = ()
) -> tuple[tuple[str, ...], dict[int, str]]:
    """Put stand-ins in the place of special tokens.

    Args:
        stop: stop texts.
        special: id of every special token, by its text.
        markers: special tokens that have a stand-in in any case.

    Returns:
        The stop texts, for a reply may spell one out in plain tokens; those with special tokens once more with
        stand-ins; and the stand-in of each special token in them and of each marker, by its id.

    Raises:
        RequestError: a stop text holds a lone surrogate, or all together too many special tokens.
    """
    if any(map(_STAND_INS.search, stop)):
        raise RequestError("a stop text must be valid Unicode, got a lone surrogate: remove it")
    held = [token for token in special if token and any(token in text for text in stop)]
    by_length = sorted(held, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, by_length)) or r"(?!)")
    found = dict.fromkeys([*markers, *(token for text in stop for token in pattern.findall(text))])
    if len(found) > _N_STAND_INS:
        raise RequestError(
            f"stop texts may hold {_N_STAND_INS} special tokens, got {len(found)}: give them as stop_token_ids"
        )
    stand_ins = {token: chr(_FIRST_STAND_IN + n) for n, token in enumerate(found)}
    hidden = (pattern.sub(lambda match: stand_ins[match[0]], text) for text in stop)
    return tuple(dict.fromkeys([*stop, *hidden])), {
        special[token]: stand_in for token, stand_in in stand_ins.items()
    }


class StopFilter:
    """Passes text through until a stop text appears; owns what is held back."""

    def __init__(self, stop: Sequence[str], shown: str = "") -> None:
        """Watch for stop texts.

        Args:
            stop: texts that are not empty; none at all lets everything through at once.
            shown: stand-ins of special tokens that are let through; others, in stop texts and text, are not.
        """
        self._stop = tuple(stop)
        self._shown = shown
        self._has_stand_ins = any(map(_STAND_INS.search, self._stop))
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
            return self._visible(text[:start])

        n_held = max((_overlap(text, s) for s in self._stop), default=0)
        self._held = text[len(text) - n_held :]
        return self._visible(text[: len(text) - n_held])

    def flush(self) -> str:
        """The text held back, once no more will come."""
        held, self._held = self._held, ""
        return self._visible(held)

    def _visible(self, text: str) -> str:
        if not self._has_stand_ins:
            return text
        return _STAND_INS.sub(lambda match: match[0] if match[0] in self._shown else "", text)


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of text that is a beginning of stop, short of all of it."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
