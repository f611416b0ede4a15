"""A peak of memory predicted: what is in memory at several moments, and which of them has the most.

    peak = process + the most that lies there at a moment + holes

An allocator that keeps what is freed gives the room of a large array to smaller ones, and has none for the next large
one: it holds more than lies there. Holes count for one array of the largest size, or of LARGEST_HOLE where the largest
are larger, because those go back to the system.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from xplm.backend import DeviceMemory

LARGEST_HOLE = 2**26
"""Bytes of an array from which on an allocator gives it back, at the latest: 64 MiB."""


class Moment(NamedTuple):
    """What lies in memory at one moment of a computation."""

    name: str
    parts: Mapping[str, int]  # bytes, by what they are

    @property
    def n_bytes(self) -> int:
        """Of all parts."""
        return sum(self.parts.values())


class MemoryPlan(NamedTuple):
    """The peak of a computation, beside what the process held before it."""

    process: DeviceMemory  # before
    peak: Moment
    holes: int  # bytes

    @property
    def n_bytes(self) -> int:
        """The peak predicted; what the process took before, for good and for a while, is in it."""
        return max(self.process.peak, sum(self.parts.values()))

    @property
    def parts(self) -> dict[str, int]:
        """Bytes by what they are, the process among them."""
        return {**self.peak.parts, "holes": self.holes, "process": self.process.used}


def plan_peak(process: DeviceMemory, moments: Sequence[Moment], largest: int) -> MemoryPlan:
    """The plan of a computation.

    Args:
        process: what there is before it.
        moments: of which one has the most.
        largest: bytes of its largest array.
    """
    peak = max(moments, key=lambda moment: moment.n_bytes)
    return MemoryPlan(process, peak, min(largest, LARGEST_HOLE))
