"""Systems take turns, A B C then C B A, so that a machine that slows down slows all of them.

A turn measures every system once. Ratios are taken within a turn, between neighbours in time; what is reported is
their median, and their quartiles as the spread. Each turn is written to a file when it is over, so that a run that was
cut off goes on with the next one.
"""

import json
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isnan, nan
from pathlib import Path
from time import perf_counter, sleep
from typing import Any, NamedTuple, TypeVar

from bench.processes import FAILED

Figures = Mapping[str, float]
"""What one measurement of one system gave, by name and unit: "decode_tokens_per_s"."""

Turn = Mapping[str, Figures]
"""The figures of every system."""

MEASURED_SECONDS = 0.5
"""How long something short is repeated for one figure: the first after a pause shows how threads and caches wake up."""

Result = TypeVar("Result")

SETTLE_SECONDS = 0.05  # threads that spin for work after a turn have gone to sleep by then


class Spread(NamedTuple):
    """Several measurements of one quantity."""

    median: float
    low: float  # quartile
    high: float  # quartile


def spread(values: Iterable[float]) -> Spread:
    """Median and quartiles; NaN where one is."""
    ordered = sorted(values)
    if any(isnan(value) for value in ordered):
        return Spread(nan, nan, nan)
    if len(ordered) == 1:
        return Spread(ordered[0], ordered[0], ordered[0])
    low, median, high = statistics.quantiles(ordered, n=4, method="inclusive")
    return Spread(median, low, high)


def of(turns: Sequence[Turn], system: str, figure: str) -> Spread:
    """A system's figure."""
    return spread(turn[system][figure] for turn in turns)


def ratio(turns: Sequence[Turn], system: str, other: str, figure: str) -> Spread:
    """A system's figure over another's, turn by turn."""
    return spread(turn[system][figure] / turn[other][figure] for turn in turns)


def repeated(
    step: Callable[[], Result], seconds: float = MEASURED_SECONDS
) -> tuple[list[Result], float]:
    """What a step gave each time, and the seconds that one took: the mean of as many as `seconds` hold."""
    started = perf_counter()
    results = [step()]
    while perf_counter() - started < seconds:
        results.append(step())
    return results, (perf_counter() - started) / len(results)


class Log:
    """The owner of a file of measurements: a JSON object a line, the settings in the first."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Open a file, or begin it. Exits with code 2 if what is there was measured under other settings."""
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        if not lines:
            lines = [{"settings": dict(settings)}]
        elif lines[0]["settings"] != settings:
            print(
                f"error: measurements in one file must have the same settings; {path} has "
                f"{lines[0]['settings']}, not {dict(settings)}; name another place",
                file=sys.stderr,
            )
            sys.exit(FAILED)
        self.records: list[dict[str, Any]] = lines
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    def add(self, record: dict[str, Any]) -> None:
        """Keep a record."""
        self.records.append(record)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def turns(self, part: str) -> list[Turn]:
        """What is known of a part."""
        return [r["figures"] for r in self.records if r.get("part") == part]

    def note(self, name: str) -> Any:
        """The newest record of that name, or None."""
        return next((r[name] for r in reversed(self.records) if name in r), None)


def take_turns(
    log: Log,
    part: str,
    systems: Mapping[str, Callable[[int], Figures]],
    n_turns: int,
    *,
    warm_up: bool = True,
) -> None:
    """Measure a part until it has so many turns.

    Args:
        log: where to; its turns of this part count.
        part: its name.
        systems: how to measure each; given the number of the turn.
        n_turns: in all.
        warm_up: measure every system once before, and forget it.
    """
    names = list(systems)
    todo = range(len(log.turns(part)), n_turns)
    if warm_up and todo:
        for measure in systems.values():
            measure(todo[0])
    for turn in todo:
        figures: dict[str, Figures] = {}
        for name in names if turn % 2 == 0 else reversed(names):
            sleep(SETTLE_SECONDS)
            figures[name] = systems[name](turn)
        log.add({"part": part, "figures": {name: figures[name] for name in names}})
        print(f"{part}: turn {turn + 1} of {n_turns}", file=sys.stderr, flush=True)
