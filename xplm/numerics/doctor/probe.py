"""A probe: one question put to an array library, and what comes back.

A probe runs a small case whose right answer is known to the last bit, or counts as wrong for a reason that it can
state: nothing here has a tolerance. What a library raises is an answer too.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

from xplm.backend import Backend

GOOD, GAP, ABSENT = "good", "gap", "absent"
"""Verdicts. ABSENT: there is nothing to ask, because the library lacks the dtype."""

HALVES = ("bfloat16", "float16")
FLOATS = ("float32", *HALVES)


class Answer(NamedTuple):
    """The answer to a probe."""

    verdict: str  # GOOD, GAP or ABSENT
    found: str  # in words, a line
    values: Mapping[str, float] = {}  # what was measured, if anything


class Probe(NamedTuple):
    """A question."""

    name: str  # "product, batched"
    theme: str  # what it is listed under
    asks: str  # what is right
    dtype: str  # the float that it is about, by array-API name
    workaround: str | None  # in WORKAROUNDS; None: xplm has none
    run: Callable[..., Answer]  # of a backend, and of a clock where it measures time
    needs_dtype: bool = True  # nothing to ask where the library lacks the dtype

    @property
    def label(self) -> str:
        """As in "bfloat16 product, batched"."""
        return f"{self.dtype} {self.name}"


def good(found: str, **values: float) -> Answer:
    """The library does what is asked."""
    return Answer(GOOD, found, values)


def gap(found: str, **values: float) -> Answer:
    """It does not."""
    return Answer(GAP, found, values)


def absent(why: str) -> Answer:
    """There is nothing to ask."""
    return Answer(ABSENT, why)


def ask(probe: Probe, backend: Backend) -> Answer:
    """Put a probe to a backend. An exception of the library is a gap."""
    if probe.needs_dtype and probe.dtype not in backend.dtypes:
        return absent(f"no {probe.dtype} to ask about")
    try:
        return probe.run(backend)
    except Exception as error:  # noqa: BLE001 - a library may raise what it likes; it is an answer
        return gap(raised(error))


def raised(error: Exception) -> str:
    """An exception in a line."""
    first = next(iter(str(error).strip().splitlines()), "")
    return f"raises {type(error).__name__}: {first:.80}".removesuffix(": ")


def for_each(
    dtypes: Iterable[str],
    name: str,
    theme: str,
    asks: str,
    run: Callable[..., Answer],
    workaround: str | None = None,
    *,
    serves: tuple[str, ...] = HALVES,
    **options: Any,
) -> list[Probe]:
    """The same probe for several dtypes.

    Args:
        dtypes: array-API names.
        name: of the probe.
        theme: what it is listed under.
        asks: what is right.
        run: (backend, dtype=..., **options) -> Answer.
        workaround: the name of what xplm does where the answer is no.
        serves: the dtypes that it helps; a gap in another stays open.
        options: of `run`.
    """
    return [
        Probe(
            name,
            theme,
            asks,
            dtype,
            workaround if dtype in serves else None,
            partial(run, dtype=dtype, **options),
        )
        for dtype in dtypes
    ]
