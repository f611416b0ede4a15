"""Text with marks in it, which a chat template sees as the text without them.

A MARK inside of a special token that a message spells out keeps it from being taken for the template's own. A template
may search that message, cut it or measure it, and must find what it would find without marks. So a Marked text holds
the marks, which come out wherever it is written to, and answers every question as the text without them.

An operation that is not here works on the text with its marks: it never loses one, but its result may differ from the
right one, which `xplm.text.chat_encoder` detects.
"""

# ruff: noqa: D105, those methods of a text are what they are of every text
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, SupportsIndex

MARK = "\ufdd0"
"""Unicode sets this code point aside for use inside a program; text in interchange has no place for it."""


def mark_all(value: Any) -> Any:
    """The same nest of lists and dicts, every text that holds a mark as a Marked one."""
    if isinstance(value, str):
        return wrap(value)
    if isinstance(value, dict):
        return {mark_all(key): mark_all(item) for key, item in value.items()}
    if isinstance(value, list):
        return [mark_all(item) for item in value]
    return value


def wrap(text: str) -> str:
    """The text, as a Marked one if it holds a mark."""
    return Marked(text) if str.__contains__(text, MARK) else text


def plain(value: Any) -> Any:
    """A text, or a tuple of texts, without marks; anything else as it is."""
    if isinstance(value, Marked):
        return value._plain
    return tuple(map(plain, value)) if isinstance(value, tuple) else value


class Marked(str):
    """A text that holds marks."""

    @cached_property
    def _plain(self) -> str:
        return str.replace(self, MARK, "")

    @cached_property
    def _places(self) -> list[int]:
        """Index of each character without marks in the text with them, and its end."""
        return [i for i, c in enumerate(str.__iter__(self)) if c != MARK] + [str.__len__(self)]

    def _cut(self, start: int, end: int) -> str:
        """The text between two indices; a mark goes with the character before it."""
        first, last = self._places[start], self._places[max(start, end)]
        return wrap(str.__getitem__(self, slice(first, last)))

    def __str__(self) -> str:
        return self

    def __repr__(self) -> str:
        quote = repr(self._plain)[0]
        kept = {MARK: MARK, quote: f"\\{quote}"}
        body = (kept.get(c) or repr(c)[1:-1] for c in str.__iter__(self))
        return f"{quote}{''.join(body)}{quote}"

    def __len__(self) -> int:
        return len(self._plain)

    def __hash__(self) -> int:
        return hash(self._plain)

    def __eq__(self, other: object) -> bool:
        return self._plain == plain(other)

    def __ne__(self, other: object) -> bool:
        return self._plain != plain(other)

    def __lt__(self, other: str) -> bool:
        return self._plain < plain(other)

    def __le__(self, other: str) -> bool:
        return self._plain <= plain(other)

    def __gt__(self, other: str) -> bool:
        return self._plain > plain(other)

    def __ge__(self, other: str) -> bool:
        return self._plain >= plain(other)

    def __contains__(self, text: object) -> bool:
        return plain(text) in self._plain

    def __iter__(self) -> Iterator[str]:
        return (self._cut(i, i + 1) for i in range(len(self)))

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        if not isinstance(key, slice):
            index = range(len(self))[key]
            return self._cut(index, index + 1)
        start, end, step = key.indices(len(self))
        if step == 1:
            return self._cut(start, end)
        return wrap("".join(self._cut(i, i + 1) for i in range(start, end, step)))

    def __add__(self, other: str) -> str:
        return wrap(str.__add__(self, other))

    def __radd__(self, other: str) -> str:
        return wrap(str.__add__(other, self))

    def __mul__(self, n: SupportsIndex) -> str:
        return wrap(str.__mul__(self, n))

    __rmul__ = __mul__

    def split(self, sep: str | None = None, maxsplit: int = -1) -> list[str]:  # type: ignore[override]
        """As of the text without marks."""
        if sep is None:
            return self._find_all(self._plain.split(None, maxsplit))
        return self._between(self._gaps(plain(sep), maxsplit))

    def rsplit(self, sep: str | None = None, maxsplit: int = -1) -> list[str]:  # type: ignore[override]
        """As of the text without marks."""
        if sep is None:
            return self._find_all(self._plain.rsplit(None, maxsplit))
        return self._between(self._gaps(plain(sep), maxsplit, str.rsplit))

    def splitlines(self, keepends: bool = False) -> list[str]:
        """As of the text without marks."""
        return self._find_all(self._plain.splitlines(keepends))

    def partition(self, sep: str) -> tuple[str, str, str]:
        """As of the text without marks."""
        return self._three(*map(len, self._plain.partition(plain(sep))))

    def rpartition(self, sep: str) -> tuple[str, str, str]:
        """As of the text without marks."""
        return self._three(*map(len, self._plain.rpartition(plain(sep))))

    def replace(self, old: str, new: str, count: int = -1) -> str:  # type: ignore[override]
        """As of the text without marks; `new` keeps its own."""
        if not old:
            return wrap(str.replace(self, old, new, count))
        return wrap(str.join(new, self._between(self._gaps(plain(old), count))))

    def _gaps(
        self, sep: str, maxsplit: int, split: Callable[..., list[str]] = str.split
    ) -> list[tuple[int, int]]:
        """Where each separator begins and ends."""
        gaps, at = [], 0
        for part in split(self._plain, sep, maxsplit)[:-1]:
            gaps.append((at + len(part), at + len(part) + len(sep)))
            at = gaps[-1][1]
        return gaps

    def _between(self, gaps: list[tuple[int, int]]) -> list[str]:
        starts = [0, *(end for _, end in gaps)]
        ends = [*(start for start, _ in gaps), len(self)]
        return [self._cut(start, end) for start, end in zip(starts, ends, strict=True)]

    def _find_all(self, parts: list[str]) -> list[str]:
        """Parts that nothing but white space separates, with their marks."""
        found, at = [], 0
        for part in parts:
            at = self._plain.index(part, at)
            found.append(self._cut(at, at + len(part)))
            at += len(part)
        return found

    def _three(self, before: int, sep: int, after: int) -> tuple[str, str, str]:
        end = before + sep
        return self._cut(0, before), self._cut(before, end), self._cut(end, end + after)

    def strip(self, chars: str | None = None) -> str:
        """As of the text without marks."""
        return self._stripped(str.strip, chars)

    def lstrip(self, chars: str | None = None) -> str:
        """As of the text without marks."""
        return self._stripped(str.lstrip, chars)

    def rstrip(self, chars: str | None = None) -> str:
        """As of the text without marks."""
        return self._stripped(str.rstrip, chars)

    def _stripped(self, strip: Callable[..., str], chars: str | None) -> str:
        left = self._plain if strip is str.rstrip else self._plain.lstrip(plain(chars))
        start = len(self._plain) - len(left)
        return self._cut(start, start + len(strip(self._plain, plain(chars))))

    def removeprefix(self, prefix: str) -> str:
        """As of the text without marks."""
        return self._cut(len(self) - len(self._plain.removeprefix(plain(prefix))), len(self))

    def removesuffix(self, suffix: str) -> str:
        """As of the text without marks."""
        return self._cut(0, len(self._plain.removesuffix(plain(suffix))))


def _answer_plainly(name: str) -> Callable[..., Any]:
    method = getattr(str, name)

    def answer(self: Marked, *args: Any) -> Any:
        return method(self._plain, *map(plain, args))

    answer.__name__, answer.__doc__ = name, "As of the text without marks."
    return answer


def _keep_marks(name: str) -> Callable[..., str]:
    method = getattr(str, name)

    def change(self: Marked) -> str:
        return wrap(method(self))

    change.__name__, change.__doc__ = (
        name,
        "As of the text without marks, which stay where they are.",
    )
    return change


_QUESTIONS: tuple[str, ...] = (
    *("count", "endswith", "find", "index", "rfind", "rindex", "startswith"),
    *(name for name in dir(str) if name.startswith("is")),
)
for _name in _QUESTIONS:
    setattr(Marked, _name, _answer_plainly(_name))
for _name in ("capitalize", "casefold", "lower", "swapcase", "upper"):
    setattr(Marked, _name, _keep_marks(_name))
