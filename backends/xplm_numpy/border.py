"""The border to numba: whatever it raises becomes one exception here, and nowhere else."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

MOST_CHARACTERS = 200
"""Of another library's message, in a line of the log."""


class NumbaError(Exception):
    """numba, or something private to it, does not do what is asked of it. The message is one short line."""


@contextmanager
def border() -> Iterator[None]:
    """Run calls into numba. A release may raise anything where it has changed, so every exception is caught.

    Raises:
        NumbaError: an exception left numba.
        MemoryError: there is no memory; that says nothing about numba.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        paragraph = " ".join(re.split(r"\n\s*\n", str(error).strip())[0].split())
        if len(paragraph) > MOST_CHARACTERS:
            paragraph = f"{paragraph[: MOST_CHARACTERS - 1]}…"
        raise NumbaError(f"{type(error).__name__}: {paragraph}".rstrip(": ")) from error
