"""A file to grade: a forward and a backward for an op, called by their own signatures.

    def forward(x, weight): ...                       y, or (y, saved)
    def backward(dy, x, weight): ...                  where forward returns y
    def backward(dy, saved): ...                      where forward returns (y, saved)
    def backward(dy): ...                             where forward keeps the rest elsewhere, as in a global

Arrays come by position in the op's order, float64 NumPy; the op's options (eps, scale, ...) by keyword, to whichever
function has a parameter of that name. backward returns the gradients in the order of forward's arrays, with None (or
nothing) for integers and masks, or a dict by forward's own names. A loss that is a single number may do without dy.
"""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from xplm.numerics.grading.raised import SubmissionError, raised


@dataclass(frozen=True)
class Submission:
    """What the file defines."""

    path: Path
    forward: Callable[..., Any]
    backward: Callable[..., Any]
    op: str | None  # its OP, if it has one

    @cached_property
    def _signatures(self) -> dict[str, inspect.Signature]:
        """Of both, read once: forward is called thousands of times."""
        return {
            "forward": inspect.signature(self.forward),
            "backward": inspect.signature(self.backward),
        }

    def _parameters(self, name: str) -> Mapping[str, inspect.Parameter]:
        return self._signatures[name].parameters

    def array_names(self, options: Collection[str]) -> tuple[list[str], int]:
        """Names of forward's array parameters, and how many of them are required.

        A parameter whose default is anything but None is an option of their own.
        """
        arrays = [
            p
            for name, p in self._parameters("forward").items()
            if name not in options
            and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
            and (p.default is p.empty or p.default is None)
        ]
        return [p.name for p in arrays], sum(p.default is p.empty for p in arrays)

    def takes(self, option: str) -> bool:
        """Whether forward has a parameter of this name, or takes any."""
        parameters = self._parameters("forward")
        return option in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())

    def run_forward(
        self, arrays: Sequence[np.ndarray], options: Mapping[str, Any]
    ) -> tuple[np.ndarray, tuple[Any, ...]]:
        """Their y in its own dtype, and what they saved beside it."""
        result = self._call("forward", arrays, options)
        y, *saved = result if isinstance(result, tuple) else (result,)
        return _as_array(y, "forward"), tuple(saved)

    def backward_arguments(
        self,
        dy: np.ndarray,
        saved: tuple[Any, ...],
        arrays: Sequence[np.ndarray],
        options: Mapping[str, Any],
    ) -> tuple[Any, ...]:
        """The arguments of backward: dy, then what forward saved, or else its arrays.

        A tuple that forward saved is unpacked where backward asks for its parts by name, or has *saved after dy.
        """
        given = saved or tuple(arrays)
        wanted = _count_required(self._parameters("backward"), options)
        if not saved and self._takes_dy_alone():
            return (dy,)
        parts = saved[0] if len(saved) == 1 and isinstance(saved[0], tuple | list) else None
        if parts is not None and (self._takes_any_number() or 2 < wanted == 1 + len(parts)):
            given = tuple(parts)
        if wanted != 1 + len(given) and wanted == 1 + len(arrays):
            given = tuple(arrays)
        needs_no_dy = dy.ndim == 0 and wanted == len(given) and not self._takes_any_number()
        return given if needs_no_dy else (dy, *given)

    def run_backward(
        self,
        arguments: Sequence[Any],
        options: Mapping[str, Any],
        n_arrays: int,
        gradients: Sequence[int],
    ) -> list[np.ndarray | None]:
        """Their gradients in their own dtypes, one an array of forward's; None where they give none.

        Args:
            arguments: of backward.
            options: forward's.
            n_arrays: how many arrays forward was given.
            gradients: positions of those that have a gradient.
        """
        result = self._call("backward", arguments, options)
        if isinstance(result, Mapping):
            found = self._by_name(result, options, n_arrays)
        elif isinstance(result, tuple | list):
            found = list(result)
            if len(found) == len(gradients) < n_arrays:
                by_position = dict(zip(gradients, found, strict=True))
                found = [by_position.get(i) for i in range(n_arrays)]
        else:
            found = [None] * n_arrays
            found[gradients[0]] = result
        if len(found) != n_arrays:
            raise SubmissionError(
                f"backward returns {len(found)} gradients; forward has {n_arrays} arrays, "
                f"{len(gradients)} of them with a gradient"
            )
        return [None if g is None else _as_array(g, "backward") for g in found]

    def backward_signature(self) -> str:
        """Such as "backward(x, dy)"."""
        return f"backward({', '.join(self._signatures['backward'].parameters)})"

    def _takes_any_number(self) -> bool:
        """True for backward(dy, *saved)."""
        kinds = [p.kind for p in self._parameters("backward").values()]
        return kinds[1:] == [inspect.Parameter.VAR_POSITIONAL]

    def _takes_dy_alone(self) -> bool:
        """True where backward has one parameter, and forward none of that name: forward keeps the rest elsewhere."""
        parameters = list(self._parameters("backward").values())
        return (
            len(parameters) == 1
            and parameters[0].kind is not inspect.Parameter.VAR_POSITIONAL
            and parameters[0].name not in self._parameters("forward")
        )

    def _by_name(
        self, result: Mapping[Any, Any], options: Mapping[str, Any], n_arrays: int
    ) -> list[Any]:
        names = self.array_names(options)[0][:n_arrays]
        by_key = {str(key).lower(): value for key, value in result.items()}
        spellings = [(n, f"d{n}", f"d_{n}", f"grad_{n}", f"{n}_grad") for n in names]
        found = [
            next((by_key[k.lower()] for k in keys if k.lower() in by_key), None)
            for keys in spellings
        ]
        if all(gradient is None for gradient in found):
            raise SubmissionError(
                f"backward returns a dict with the keys {', '.join(map(str, result))}; they are "
                f"{', '.join(names)}, with or without a d in front"
            )
        return found

    def _call(self, name: str, arguments: Sequence[Any], options: Mapping[str, Any]) -> Any:
        function = {"forward": self.forward, "backward": self.backward}[name]
        signature = self._signatures[name]
        parameters = signature.parameters
        anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        accepted = {k: v for k, v in options.items() if anything or k in parameters}
        try:
            signature.bind(*arguments, **accepted)
        except TypeError as error:
            raise SubmissionError(
                f"{name}({', '.join(parameters)}) does not take what it is called "
                f"with, {len(arguments)} positional arguments: {error}"
            ) from error
        try:
            with np.errstate(all="ignore"):
                return function(*arguments, **accepted)
        except (Exception, SystemExit) as error:
            raise raised(name, self.path, error, arguments) from error


def _count_required(parameters: Mapping[str, inspect.Parameter], options: Collection[str]) -> int:
    """Positional parameters without a default that are not options."""
    return sum(
        p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        for name, p in parameters.items()
        if name not in options
    )


def _as_array(array: Any, name: str) -> np.ndarray:
    """A returned value as an array of real numbers."""
    if array is None:
        raise SubmissionError(f"{name} returns None where an array belongs")
    try:
        found = np.asarray(array)
        found.astype(np.float64)
    except (TypeError, ValueError) as error:
        kept = " (what backward needs comes beside y in a tuple: return y, saved)"
        raise SubmissionError(
            f"{name} returns a {type(array).__name__} where an array belongs"
            + kept * (name == "forward" and isinstance(array, list))
        ) from error
    if found.dtype.kind not in "fiubV":
        raise SubmissionError(f"{name} returns an array of {found.dtype} where real numbers belong")
    return found
