"""Figures beside what they must be, and the table of them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from bench.turns import Spread


class Row(NamedTuple):
    """A figure, and what it must be."""

    what: str
    value: float
    sense: str = ""  # "<=", "<", ">=", or "" where nothing is asked
    limit: float = 0.0
    low: float = math.nan  # quartiles, where it is the median of several
    high: float = math.nan

    @property
    def is_met(self) -> bool:
        """Whether it is what it must be; NaN never is."""
        value, limit = self.value, self.limit
        met = {"": True, "<=": value <= limit, "<": value < limit, ">=": value >= limit}
        return met[self.sense]


def row(what: str, figure: Spread, sense: str = "", limit: float = 0.0) -> Row:
    """A row of a median and its quartiles."""
    return Row(what, figure.median, sense, limit, figure.low, figure.high)


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = ["| figure | value | threshold | verdict |", "|---|---|---|---|"]
    for row in rows:
        value = f"{row.value:.4g}"
        if not math.isnan(row.low):
            value += f" ({row.low:.4g} to {row.high:.4g})"
        asked = f"{row.sense} {row.limit:g}" if row.sense else ""
        verdict = ("met" if row.is_met else "MISSED") if row.sense else ""
        lines.append(f"| {row.what} | {value} | {asked} | {verdict} |")
    return "\n".join(lines)
