"""Every probe put to a backend, each gap with what xplm does about it."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from xplm.backend import Backend
from xplm.numerics.doctor import (
    casts,
    dtypes,
    indexing,
    matmul,
    reductions,
    special_values,
    speed,
)
from xplm.numerics.doctor.probe import GAP, Answer, Probe, ask
from xplm.numerics.doctor.proofs import failure
from xplm.numerics.doctor.references import reference
from xplm.numerics.doctor.workarounds import WORKAROUNDS, Workaround

PROBES: list[Probe] = [
    *dtypes.PROBES,
    *matmul.PROBES,
    *dtypes.DRIFT,
    *reductions.PROBES,
    *indexing.PROBES,
    *special_values.PROBES,
    *casts.PROBES,
    *speed.PROBES,
]
"""Every probe, in the order in which they are shown."""


class DoctorRow(NamedTuple):
    """A probe, what it found, and what is done about it."""

    probe: Probe
    answer: Answer
    workaround: Workaround | None  # of a gap; None where there is none, or none is needed
    failure: str  # why the work-around does not hold here; "" if it does
    reference: str | None  # address of what is known of the gap

    @property
    def is_gap(self) -> bool:
        """Whether the library does not do what is asked."""
        return self.answer.verdict == GAP

    @property
    def is_open(self) -> bool:
        """Whether it is a gap that xplm does not route around."""
        return self.is_gap and (self.workaround is None or bool(self.failure))


def examine(backend: Backend, probes: Sequence[Probe] = PROBES) -> Iterator[DoctorRow]:
    """Put probes to a backend, one after another.

    Args:
        backend: the library on its device.
        probes: what to ask.

    Yields:
        A row a probe. The proof of a work-around runs once for each dtype that needs it.
    """
    failures: dict[tuple[str, str], str] = {}
    for probe in probes:
        yield _row(backend, probe, failures)


@np.errstate(all="ignore")
def _row(backend: Backend, probe: Probe, failures: dict[tuple[str, str], str]) -> DoctorRow:
    """One row. NumPy, which speaks in warnings, is one of the libraries that are asked."""
    answer = ask(probe, backend)
    if answer.verdict != GAP:
        return DoctorRow(probe, answer, None, "", None)
    known = reference(backend.name, probe.label)
    if probe.workaround is None:
        return DoctorRow(probe, answer, None, "", known)
    workaround = WORKAROUNDS[probe.workaround]
    key = (workaround.name, probe.dtype)
    if key not in failures:
        failures[key] = failure(workaround.proof, backend, probe.dtype)
    return DoctorRow(probe, answer, workaround, failures[key], known)


def as_json(row: DoctorRow) -> dict[str, Any]:
    """A row as JSON."""
    return {
        "probe": row.probe.name,
        "theme": row.probe.theme,
        "dtype": row.probe.dtype,
        "asks": row.probe.asks,
        "verdict": row.answer.verdict,
        "found": row.answer.found,
        "measured": dict(row.answer.values),
        "reference": row.reference,
        "workaround": row.workaround and row.workaround.says,
        "sources": row.workaround.sources if row.workaround else [],
        "holds": None if row.workaround is None else not row.failure,
        "failure": row.failure or None,
        "is_open": row.is_open,
    }
