"""Run a file, and take its forward and backward."""

import inspect
import os
import runpy
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from xplm.errors import RequestError
from xplm.numerics.grading.raised import line_of
from xplm.numerics.grading.submission import Submission


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
        with _imports_from(path.resolve().parent), np.errstate():  # a file may call np.seterr
            defined = runpy.run_path(str(path))
    except (Exception, SystemExit) as error:
        if isinstance(error, OSError) and not line_of(path, error):
            raise RequestError(
                f'a file must be readable; got "{path}": {error.strerror}'
            ) from error
        raise RequestError(
            f'a file to grade must run; "{path}" raises {type(error).__name__}{line_of(path, error)}: '
            f"{error}"
        ) from error
    missing = [name for name in ("forward", "backward") if not callable(defined.get(name))]
    if missing:
        raise RequestError(
            f'a file to grade defines forward and backward; "{path}" lacks {" and ".join(missing)}'
            + _what_it_has(defined, missing)
        )
    for name in ("forward", "backward"):
        try:
            inspect.signature(defined[name])
        except ValueError as error:
            raise RequestError(
                f'{name} must be a function whose parameters can be read; "{path}" has '
                f"{defined[name]!r}; write def {name}(...) around it"
            ) from error
    op = defined.get("OP")
    return Submission(
        path, defined["forward"], defined["backward"], op if isinstance(op, str) else None
    )


@contextmanager
def _imports_from(folder: Path) -> Iterator[None]:
    """Modules beside the file can be imported, as when Python runs it."""
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = before


def _what_it_has(defined: Mapping[str, Any], missing: list[str]) -> str:
    """Functions of other names that are likely meant, and what to do."""
    for name, value in defined.items():
        is_own_class = isinstance(value, type) and value.__module__ == "<run_path>"
        if is_own_class and all(callable(getattr(value, word, None)) for word in missing):
            return f"; class {name} has them as methods: write functions of the file"
    likely = {
        word: [name for name, value in defined.items() if word in name.lower() and callable(value)]
        for word in missing
    }
    if not all(len(names) == 1 for names in likely.values()):
        return ""
    lines = " and ".join(f"{word} = {names[0]}" for word, names in likely.items())
    return f"; add {lines}"
