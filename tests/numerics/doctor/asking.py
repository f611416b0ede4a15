"""Putting probes to a backend without measuring any time."""

from collections.abc import Callable
from functools import partial
from itertools import count

import numpy as np

from xplm.backend import Backend
from xplm.numerics.doctor.examine import PROBES, DoctorRow, examine
from xplm.numerics.doctor.probe import GAP, Probe, ask


def probes(clock: Callable[[], float] | None = None) -> list[Probe]:
    """All of them, with a clock that finds everything as fast where none is given."""
    ticks = count()
    clock = clock or (lambda: float(next(ticks)))
    return [
        probe._replace(run=partial(probe.run, clock=clock)) if probe.theme == "speed" else probe
        for probe in PROBES
    ]


@np.errstate(all="ignore")
def gaps(backend: Backend, clock: Callable[[], float] | None = None) -> set[str]:
    """The labels of the probes that find a gap; nothing is proved."""
    return {probe.label for probe in probes(clock) if ask(probe, backend).verdict == GAP}


def rows_of(
    backend: Backend, labels: set[str], clock: Callable[[], float] | None = None
) -> list[DoctorRow]:
    """What the doctor says of some probes."""
    return list(examine(backend, [probe for probe in probes(clock) if probe.label in labels]))
