"""The three standard streams, made fit for every command: always there, and failing in one line."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from xplm.errors import RequestError


class Stdout(io.TextIOWrapper):
    """Text for stdout. A disk that is full is the user's to mend, and no traceback."""

    def write(self, text: str) -> int:
        """Write text; return the number of characters."""
        with _refusing():
            return super().write(text)

    def flush(self) -> None:
        """Write out what is held back."""
        with _refusing():
            super().flush()


def prepare_streams() -> None:
    """Put an empty stream in the place of each that the caller has closed, and Stdout in the place of stdout."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  # stays open
    if isinstance(sys.stdout, io.TextIOWrapper):
        before = sys.stdout
        encoding, through = before.encoding, before.write_through
        lines = before.line_buffering
        sys.stdout = Stdout(
            before.detach(),
            encoding=encoding,
            errors="replace",  # a terminal without UTF-8 shows "?"
            line_buffering=lines,
            write_through=through,
        )


def give_up_stdout() -> None:
    """Drop what stdout could not write, which Python would try once more at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # the reader has seen enough: no error of anybody's
        raise
    except OSError as error:
        raise RequestError(
            f"stdout must take what is printed; got: {error.strerror}; make room, or print elsewhere"
        ) from error
