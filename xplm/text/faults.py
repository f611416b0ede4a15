"""Errors of the `tokenizers` library as ours, and values that are not text.

What a tokenizer.json holds is checked by the library in part when it is read and in part when it is used: an unknown
token that is missing from the vocabulary, say, shows at the first text that needs it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from reprlib import repr as shown  # a value of any length, cut short

from xplm.errors import RequestError, TokenizerError

BYTES = bytes | bytearray | memoryview
"""Types that are often passed for text."""


@contextmanager
def library_faults(invariant: str) -> Iterator[None]:
    """Turn a fault of the library, while it reads or runs a pipeline, into our error.

    Args:
        invariant: what must hold, and where: the message begins with it.

    Raises:
        TokenizerError: the library raised a bare Exception, as it does for all its faults, or panicked.
    """
    try:
        yield
    except BaseException as error:
        # A panic derives from BaseException, and its class cannot be imported.
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        said = " ".join(str(error).split())
        raise TokenizerError(f"{invariant}; got: {said}; take the model's own file") from None


def require_text(what: str, value: object) -> None:
    """Refuse a value that is not a str.

    Args:
        what: its role, for the message: "a message".
        value: any.

    Raises:
        RequestError: the value is of another type.
    """
    if not isinstance(value, str):
        advice = '; decode it: data.decode("utf-8")' if isinstance(value, BYTES) else ""
        raise RequestError(f"{what} is a text; got {described(value)}{advice}")


def described(value: object) -> str:
    """A value for a message: its type, and its contents or its shape."""
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple):
        return f"{name} of shape {tuple(shape)} and dtype {dtype}"
    return "None" if value is None else f"{name} {shown(value)}"
