"""Prompts: a text, or its token ids; a single one, or a list of several."""

from collections.abc import Iterable, Mapping, Sequence
from numbers import Number
from typing import Any, TypeAlias, TypeGuard

import numpy as np

from xplm.errors import RequestError
from xplm.text.faults import BYTES, described

Ids: TypeAlias = Sequence[int] | np.ndarray
"""Token ids of one sequence; an array is 1-D and holds integers."""

Prompt: TypeAlias = str | Ids
"""A text, or its token ids."""

IDS = "token ids must be integers, in a list or in a 1-D NumPy array"
PROMPT = "a prompt is a text, or its token ids: integers in a list or in a 1-D NumPy array"


def is_ids(value: object) -> TypeGuard[Ids]:
    """True for a list or an array that can hold token ids; the items of a list are not checked."""
    if isinstance(value, np.ndarray):
        return value.ndim == 1 and value.dtype.kind in "iu"
    return _is_list(value)


def require_ids(value: object) -> None:
    """Refuse a value that cannot be the token ids of one sequence.

    Raises:
        RequestError: it is of another type, or a list of several sequences.
    """
    if not is_ids(value):
        advice = "; encode it: lm.tokenizer.encode(text)" if isinstance(value, str) else ""
        raise RequestError(f"{IDS}; got {described(value)}{advice or _advice(value)}")
    if len(value) > 0 and isinstance(value[0], str | Sequence | np.ndarray):
        raise RequestError(
            f"{IDS}, of one sequence; got a list of {len(value)} of type {type(value[0]).__name__}; "
            "give one of them, or all of them to generate"
        )


def split_batch(prompts: Any) -> list[Prompt] | None:
    """The prompts of a batch, or None for a single prompt.

    A list that begins with a number and an array of numbers are single prompts.

    Args:
        prompts: one prompt, or a list or array of prompts.

    Raises:
        RequestError: the value is neither.
    """
    if isinstance(prompts, np.ndarray) and prompts.ndim == 1 and prompts.dtype.kind in "UO":
        prompts = prompts.tolist()
    if isinstance(prompts, str | np.ndarray):
        return None
    if not _is_list(prompts):
        raise refused_prompt(prompts)
    if len(prompts) > 0 and isinstance(prompts[0], Number):
        return None
    return list(prompts)


def refused_prompt(value: object) -> RequestError:
    """The error for a value that is neither a text nor token ids."""
    return RequestError(f"{PROMPT}; got {described(value)}{_advice(value)}")


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str | BYTES)


def _advice(value: object) -> str:
    """The end of a message about a value of another type: how to convert it."""
    if isinstance(value, BYTES):
        return '; decode it: data.decode("utf-8")'
    if isinstance(value, Mapping) and "input_ids" in value:
        return '; give one row of its "input_ids", as a list'
    if isinstance(value, Mapping):
        return "; give its text, or send messages through lm.chat()"
    if hasattr(value, "tolist"):
        return "; give one row of integers, as a list: row.tolist()"
    return "; give list(...) of it" if isinstance(value, Iterable) else ""
