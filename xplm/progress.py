"""Progress of long work: a callable that is given counts as the work proceeds."""

from collections.abc import Callable
from typing import TypeAlias

OnProgress: TypeAlias = Callable[[str, int, int | None], None]
"""(what, done, total): `done` of `total` so far, None where the total is not known; the last call has both equal."""

LOADING = "loading the parameters"
"""Counted in bytes."""

READING = "reading the prompt"
"""Counted in tokens."""

SCORING = "scoring the text"
"""Counted in tokens."""

COMPILING = "compiling kernels for this machine, once"
"""Counted in kernels."""


def unseen(what: str, done: int, total: int | None) -> None:
    """Ignore the progress."""
