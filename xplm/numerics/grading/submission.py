"""Somebody's file: a forward and a backward for an op, called as they want to be called.

    def forward(x, weight): ...                       y, or (y, saved)
    def backward(dy, x, weight): ...                  where forward returns y
    def backward(dy, saved): ...                      where forward returns (y, saved)

Arrays come by position in the op's order, float64 NumPy; the op's options (eps, scale, ...) by keyword, to whichever
function has a parameter of that name. backward returns the gradients in the order of forward's arrays, with None (or
nothing) for integers and masks, or a dict by forward's own names. A loss that is a single number may do without dy.
"""

import inspect
import os
import runpy
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from traceback import extract_tb
from typing import Any

import numpy as np

from xplm.errors import RequestError


class SubmissionError(Exception):
    """Their code raised, or returned what no gradient can be read from; the text says which and where."""


@dataclass(frozen=True)
class Submission:
    """What the file defines."""

    path: Path
    forward: Callable[..., Any]
    backward: Callable[..., Any]
    op: str | None  # its OP, if it has one

    def array_names(self, options: Collection[str]) -> tuple[list[str], int]:
        """Names of forward's array parameters, and how many of them are required.

        A parameter whose default is anything but None is an option of their own.
        """
        arrays = [
            p
            for name, p in _parameters(self.forward).items()
            if name not in options
            and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
            and (p.default is p.empty or p.default is None)
        ]
        return [p.name for p in arrays], sum(p.default is p.empty for p in arrays)

    def takes(self, option: str) -> bool:
        """Whether forward has a parameter of this name, or takes any."""
        parameters = _parameters(self.forward)
        return option in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())

    def run_forward(
        self, arrays: tuple[np.ndarray, ...], options: Mapping[str, Any]
    ) -> tuple[np.ndarray, tuple[Any, ...]]:
        """Their y, and what they saved beside it."""
        result = self._call(self.forward, arrays, options)
        y, *saved = result if isinstance(result, tuple) else (result,)
        return _as_float64(y, "forward"), tuple(saved)

    def run_backward(
        self,
        dy: np.ndarray,
        saved: tuple[Any, ...],
        arrays: tuple[np.ndarray, ...],
        options: Mapping[str, Any],
        gradients: tuple[int, ...],
    ) -> list[np.ndarray | None]:
        """Their gradients, one an array; None where they give none.

        Args:
            dy: the gradient of y.
            saved: what forward returned beside y.
            arrays: forward's.
            options: forward's.
            gradients: positions of the arrays that have a gradient.
        """
        given = saved or arrays
        wanted = _count_required(self.backward, options)
        own_dy = dy.copy()
        head = () if dy.ndim == 0 and wanted == len(given) else (own_dy,)
        result = self._call(self.backward, (*head, *given), options)
        if not np.array_equal(own_dy, dy):
            raise SubmissionError(
                "backward writes into its argument dy, which others read too: copy it first"
            )

        if isinstance(result, Mapping):
            names, _ = self.array_names(options)
            keys = [(name, f"d{name}") for name in names[: len(arrays)]]
            found = [next((result[k] for k in pair if k in result), None) for pair in keys]
        elif isinstance(result, tuple | list):
            found = list(result)
            if len(found) == len(gradients) < len(arrays):
                by_position = dict(zip(gradients, found, strict=True))
                found = [by_position.get(i) for i in range(len(arrays))]
        else:
            found = [None] * len(arrays)
            found[gradients[0]] = result
        if len(found) != len(arrays):
            raise SubmissionError(
                f"backward returns {len(found)} gradients; forward has {len(arrays)} arrays, "
                f"{len(gradients)} of them with a gradient"
            )
        return [None if g is None else _as_float64(g, "backward") for g in found]

    def _call(
        self, function: Callable[..., Any], arrays: tuple[Any, ...], options: Mapping[str, Any]
    ) -> Any:
        parameters = _parameters(function)
        anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        accepted = {k: v for k, v in options.items() if anything or k in parameters}
        try:
            with np.errstate(all="ignore"):
                return function(*arrays, **accepted)
        except (Exception, SystemExit) as error:
            shapes = ", ".join(str(a.shape) for a in arrays if isinstance(a, np.ndarray))
            raise SubmissionError(
                f"{function.__name__} raises {type(error).__name__}{_line(self.path, error)}: {error}"
                + (f"; it was given arrays of shapes {shapes}" if shapes else "")
            ) from error


def load_submission(path: Path) -> Submission:
    """Run a file and take what it defines.

    Raises:
        RequestError: it cannot be read or run, or lacks one of the two functions.
    """
    if os.path.isdir(path):
        raise RequestError(f'a file must be readable; got "{path}", which is a folder')
    if os.path.exists(path) and not os.path.isfile(path):
        raise RequestError(f'a file must be readable; got "{path}", which is not a regular file')
    try:
        defined = runpy.run_path(str(path))
    except OSError as error:
        raise RequestError(f'a file must be readable; got "{path}": {error.strerror}') from error
    except (Exception, SystemExit) as error:
        raise RequestError(
            f'a file to grade must run; "{path}" raises {type(error).__name__}{_line(path, error)}: '
            f"{error}"
        ) from error
    missing = [name for name in ("forward", "backward") if not callable(defined.get(name))]
    if missing:
        raise RequestError(
            f'a file to grade defines forward and backward; "{path}" lacks {" and ".join(missing)}'
        )
    op = defined.get("OP")
    return Submission(
        path, defined["forward"], defined["backward"], op if isinstance(op, str) else None
    )


def _line(path: Path, error: BaseException) -> str:
    """Where in their file an error comes from."""
    if isinstance(error, SyntaxError):
        return f" in line {error.lineno}" if error.lineno else ""
    lines = [f.lineno for f in extract_tb(error.__traceback__) if f.filename == str(path)]
    return f" in line {lines[-1]}" if lines else ""


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters


def _count_required(function: Callable[..., Any], options: Collection[str]) -> int:
    """Positional parameters without a default that are not options."""
    return sum(
        p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        for name, p in _parameters(function).items()
        if name not in options
    )


def _as_float64(array: Any, name: str) -> np.ndarray:
    if array is None:
        raise SubmissionError(f"{name} returns None where an array belongs")
    try:
        return np.array(array, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise SubmissionError(
            f"{name} returns a {type(array).__name__} where an array belongs"
        ) from error
