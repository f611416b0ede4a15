"""An exception of a file as a sentence: the function, the line, and the usual meaning of NumPy's words."""

import re
from collections.abc import Sequence
from pathlib import Path
from traceback import extract_tb
from typing import Any

import numpy as np

BROADCAST = re.compile(r"operands could not be broadcast together with shapes (.*)")
SHAPE = re.compile(r"\(([\d,]*)\)")


MATMUL = re.compile(r"matmul: .* mismatch .*\(size (\d+) is different from (\d+)\)")


class SubmissionError(Exception):
    """Their code raised, or returned what no gradient can be read from; the text says which and where."""

    def __init__(self, says: str, more: str = "") -> None:
        """Make the error.

        Args:
            says: what happened, as a sentence.
            more: what helps to mend it, as the end of that sentence.
        """
        super().__init__(says + more)
        self.brief = says


def raised(
    function: str, path: Path, error: BaseException, arguments: Sequence[Any]
) -> SubmissionError:
    """An exception of the file's code, as a sentence.

    Args:
        function: the name of what raised.
        path: the file.
        error: what it raised.
        arguments: what it was called with.
    """
    words = MATMUL.sub(r"matmul: the inner axes differ, \1 and \2", str(error).strip())
    place = f"{type(error).__name__}{line_of(path, error)}"
    shapes = ", ".join(str(a.shape) for a in arguments if isinstance(a, np.ndarray))
    return SubmissionError(
        f"{function} raises {place}" + (f": {words}" if words else ""),
        hint(str(error)) + (f"; it was given arrays of shapes {shapes}" if shapes else ""),
    )


def line_of(path: Path, error: BaseException) -> str:
    """Where in their file an error comes from."""
    if isinstance(error, SyntaxError):
        return f" in line {error.lineno}" if error.lineno else ""
    lines = [f.lineno for f in extract_tb(error.__traceback__) if f.filename == str(path)]
    return f" in line {lines[-1]}" if lines else ""


def hint(message: str) -> str:
    """The usual cause of an error of NumPy's, in parentheses, or ""."""
    if found := BROADCAST.search(message):
        first, second, *_ = (*(_shape(s) for s in SHAPE.findall(found[1])), (), ())
        longer, shorter = sorted((first, second), key=len, reverse=True)
        if longer[:-1] == shorter or (
            len(shorter) < len(longer) and shorter == longer[: len(shorter)]
        ):
            return (
                " (a sum or mean over the last axis needs keepdims=True to be subtracted from it)"
            )
    if MATMUL.search(message) or "not aligned" in message:
        return " (a matrix is the other way round: is there a transpose missing, or one too many?)"
    return ""


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split(",") if n)
