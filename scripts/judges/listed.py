"""What a judge found, held against a list of the tests that are known not to pass, and why.

A line in brackets is a reason; each line below it is a test, or the beginning of the names of several:

    [not run: needs a model that reads pictures]
    unit/test_vision_api.py

Tests whose reason begins with "not run" are left out. Empty lines, and lines that begin with #, are comments.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

PASSED, FAILED, NOT_RUN = "passed", "failed", "not run"

BOUNDARIES = ("::", "[", " > ", "/")
"""Where the name of a test may be cut."""

MOST_SHOWN = 40
"""Tests that are shown of one reason, or of one kind of surprise."""


class Outcome(NamedTuple):
    """What became of a test."""

    kind: str  # PASSED, FAILED or NOT_RUN
    detail: str = ""  # why it did not pass, in a line


class Entry(NamedTuple):
    """A line of a list."""

    beginning: str  # of the names of tests
    reason: str

    @property
    def is_left_out(self) -> bool:
        """Whether these tests are not run."""
        return self.reason.startswith(NOT_RUN)

    def covers(self, test: str) -> bool:
        """Whether a test is one of these."""
        rest = test.removeprefix(self.beginning)
        return rest == "" or (rest != test and rest.startswith(BOUNDARIES))


class Verdict(NamedTuple):
    """How a judge's tests and a list agree."""

    n_passed: int
    known: Mapping[str, list[str]]  # by reason, the tests that did not pass
    surprises: Mapping[str, list[str]]  # by kind, what the list does not say

    @property
    def is_as_listed(self) -> bool:
        """Whether nothing surprises."""
        return not any(self.surprises.values())


def read_list(path: Path) -> list[Entry]:
    """The entries of a list, in its order."""
    entries, reason = [], ""
    for line in path.read_text(encoding="utf-8").splitlines():
        line = line.strip()
        if line.startswith("[") and line.endswith("]"):
            reason = line[1:-1]
        elif line and not line.startswith("#"):
            entries.append(Entry(line, reason))
    return entries


def compare(found: Mapping[str, Outcome], entries: Sequence[Entry]) -> Verdict:
    """Hold outcomes against a list; of several entries that cover a test the longest speaks for it."""
    known: dict[str, list[str]] = {entry.reason: [] for entry in entries}
    unlisted, mended, used = [], [], set()
    for test, outcome in found.items():
        covering = [entry for entry in entries if entry.covers(test)]
        entry = max(covering, key=lambda entry: len(entry.beginning), default=None)
        used.update(covering)
        if entry is None and outcome.kind != PASSED:
            unlisted.append(f"{test}   {outcome.kind}: {outcome.detail}")
        elif entry is not None and outcome.kind == PASSED:
            mended.append(test)
        elif entry is not None:
            known[entry.reason].append(test)
    surprises = {
        "did not pass, and is not listed": unlisted,
        "is listed, and passes": mended,
        "is listed, and is no test": [e.beginning for e in entries if e not in used],
    }
    n_passed = sum(outcome.kind == PASSED for outcome in found.values())
    return Verdict(n_passed, known, surprises)


def as_text(verdict: Verdict) -> str:
    """A verdict for people: each reason with its tests, what surprises, and the counts."""
    lines = []
    for reason, tests in verdict.known.items():
        lines += _section(f"{reason} ({len(tests)})", tests) if tests else []
    for kind, tests in verdict.surprises.items():
        lines += _section(f"!! {kind} ({len(tests)})", tests, len(tests)) if tests else []
    n_left_out = sum(len(t) for reason, t in verdict.known.items() if reason.startswith(NOT_RUN))
    n_known = sum(map(len, verdict.known.values()))
    counts = (
        f"{verdict.n_passed} passed, {n_known - n_left_out} listed do not, {n_left_out} not run"
    )
    n_surprises = sum(map(len, verdict.surprises.values()))
    return "\n".join([*lines, f"{counts}; {n_surprises} surprises"])


def _section(title: str, tests: Sequence[str], most: int = MOST_SHOWN) -> list[str]:
    shown = [f"    {test}" for test in tests[:most]]
    more = len(tests) - len(shown)
    return [title, *shown, *([f"    and {more} more"] if more else [])]
