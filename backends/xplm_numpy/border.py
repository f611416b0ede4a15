"""The border to numba: whatever it raises becomes one exception here, and nowhere else."""

from collections.abc import Iterator
from contextlib import contextmanager


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
        lines = str(error).strip().splitlines() or [""]
        raise NumbaError(f"{type(error).__name__}: {lines[0][:200]}".rstrip(": ")) from error
