"""Two records, compared group by group."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import numpy as np

from bits.arrays import Recorded

SHOWN = 5  # names to a group


class Group(NamedTuple):
    name: str
    n_arrays: int  # on either side
    differences: list[str]  # a line each, in the order of recording
    n_excepted: int  # of the names that differ, those that a pattern allows

    def __str__(self) -> str:
        """A line, and one for each of the first differences."""
        excepted = f", {self.n_excepted} excepted" if self.n_excepted else ""
        if not self.differences:
            return f"{self.name}: {self.n_arrays} equal{excepted}"
        first = [f"    {line}" for line in self.differences[:SHOWN]]
        head = f"{self.name}: {len(self.differences)} of {self.n_arrays} DIFFER{excepted}"
        return "\n".join([head, *first, *(["    ..."] if len(self.differences) > SHOWN else [])])


def compare(before: Recorded, after: Recorded, excepted: Sequence[str] = ()) -> list[Group]:
    """Every group of either side, in the order of recording.

    Args:
        before: of the one checkout.
        after: of the other.
        excepted: patterns (`fnmatch`) of names that may differ, or be on one side only.
    """
    found: dict[str, Group] = {}
    for name in before.digests | after.digests:
        key = " ".join(name.split("/")[:2])
        group = found.get(key, Group(key, 0, [], 0))._replace()
        line = difference(name, before, after)
        is_excepted = line is not None and any(fnmatchcase(name, p) for p in excepted)
        if line is not None and not is_excepted:
            group.differences.append(line)
        found[key] = group._replace(
            n_arrays=group.n_arrays + 1, n_excepted=group.n_excepted + is_excepted
        )
    return list(found.values())


def difference(name: str, before: Recorded, after: Recorded) -> str | None:
    """A line about an array that is not the same on both sides; None: it is."""
    for side, other in ((before, after), (after, before)):
        if name not in side.digests:
            return f"{name}: {'after' if other is after else 'before'} only"
    if before.digests[name] == after.digests[name]:
        return None
    return f"{name}: {_by_how_much(name, before.numbers, after.numbers)}"


def _by_how_much(
    name: str, before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]
) -> str:
    a, b = before[name], after[name]
    if a.shape != b.shape:
        return f"shape {a.shape} became {b.shape}"
    differ = ~((a == b) | ((a != a) & (b != b)))  # NaN is NaN
    if not differ.any():
        return "equal numbers; another dtype, or signs of zeros or NaN"
    with np.errstate(invalid="ignore", over="ignore"):
        largest = np.max(np.abs(a.astype(np.float64) - b.astype(np.float64))[differ])
        size = np.max(np.abs(a[differ]))
    return f"{np.count_nonzero(differ)} of {a.size} numbers, by {largest:.3g} at most; they are up to {size:.3g}"
