"""Errors that a user can cause.

Each message is one line that holds the invariant, what was received, and what to do about it. The command line prints
it as it is and exits with code 2. Any other exception that leaves the library is a bug in the library.
"""

import inspect
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

MIN_PART = 3
"""Characters from which a part of a name, such as "smollm2" or "temp", is matched to the name."""

MAX_MESSAGE_CHARS = 1000
CUT = " [...] "


def one_line(text: str) -> str:
    """Text from a file or a user, fit for a message: one printable line of at most MAX_MESSAGE_CHARS.

    Control, bidirectional and other unprintable characters become escapes. The middle of a long text is left out: a
    message says at its beginning what must hold, and at its end what to do.
    """
    return _shorten(visible(" ".join(_shorten(text).split())))


def visible(text: str) -> str:
    """Text with every unprintable character as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def did_you_mean(words: str | Iterable[str], known: Iterable[str]) -> str:
    """The end of a message about unknown names: "; did you mean bf16?", or "" where no known name is near."""
    names = {name.lower(): name for name in known}
    near = [
        _nearest(word.lower(), names) for word in ([words] if isinstance(words, str) else words)
    ]
    guesses = dict.fromkeys(names[name] for name in near if name is not None)
    return f"; did you mean {' and '.join(guesses)}?" if guesses else ""


def refuse_unknown_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """The same function; a keyword that it lacks raises an error that names the nearest one.

    Raises:
        RequestError: a call has a keyword that the function lacks.
    """
    known = [name for name in inspect.signature(function).parameters if name != "self"]

    @wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> R:
        if unknown := [name for name in options if name not in known]:
            raise RequestError(
                f"{function.__name__} takes {', '.join(known)}; got unknown {', '.join(unknown)}"
                f"{did_you_mean(unknown, known)}"
            )
        return function(*args, **options)

    return call


def _nearest(word: str, names: Iterable[str]) -> str | None:
    """The name most similar to a word; else one that begins with the word or contains it."""
    near = get_close_matches(word, names, n=1)
    if not near and len(word) >= MIN_PART:
        near = sorted((name for name in names if word in name), key=lambda name: name.find(word))
    return near[0] if near else None


def _shorten(text: str) -> str:
    if len(text) <= MAX_MESSAGE_CHARS:
        return text
    half = (MAX_MESSAGE_CHARS - len(CUT)) // 2
    return text[:half] + CUT + text[-half:]


class XplmError(Exception):
    """Base of every error below; catch this one to catch them all."""

    def __str__(self) -> str:
        """The message on one line of bounded length, whatever a file or a library put into it."""
        return one_line(super().__str__())


class ConfigError(XplmError):
    """A model configuration is missing a field, contradicts itself, or asks for what xplm does not have."""


class CheckpointError(XplmError):
    """A checkpoint file is missing, truncated, malformed, or does not fit its configuration."""


class TokenizerError(XplmError):
    """A tokenizer cannot be built from what the checkpoint holds."""


class TemplateError(XplmError):
    """A chat template cannot be rendered, or tried to leave its sandbox."""


class BackendError(XplmError):
    """An array library, a device, or a dtype that was asked for is not there."""


class KernelError(XplmError):
    """A backend cannot compile a kernel. A runtime calls the portable kernel of the same name in its place."""


class DownloadError(XplmError):
    """A model cannot be fetched."""


class RequestError(XplmError):
    """An option or a prompt of a request is out of range."""


class ContextError(RequestError):
    """A prompt or a conversation does not fit the model's context."""


class DataError(XplmError):
    """Training data is missing, malformed, or too little."""


class OutOfMemoryError(XplmError):
    """The memory of the host or the device cannot hold what was asked for."""
