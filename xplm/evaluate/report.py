"""Results of an evaluation, as rows and as a table."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

HEAD = ("task", "metric", "value", "stderr", "documents")
GAP = "  "


class Row(NamedTuple):
    """One metric of one task."""

    task: str
    metric: str
    filter: str  # of the answers, by name; empty for none
    value: float
    stderr: float | None  # None: not known
    documents: int | None  # that the task asked; None: of a group


def read_rows(results: Mapping[str, Any]) -> list[Row]:
    """The results of lm-eval: groups, where they have metrics of their own, then tasks."""
    every = {**results.get("groups", {}), **results["results"]}
    rows = []
    for name, values in every.items():
        for key, value in values.items():
            metric, comma, filtered_by = key.partition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            stderr = values.get(f"{metric}_stderr,{filtered_by}")
            rows.append(
                Row(
                    task=name,
                    metric=metric,
                    filter="" if filtered_by == "none" else filtered_by,
                    value=float(value),
                    stderr=float(stderr) if _is_number(stderr) else None,
                    documents=values.get("sample_len"),
                )
            )
    return rows


def table_lines(rows: Sequence[Row]) -> list[str]:
    """The rows under a head, in columns; a task is named in its first row."""
    cells = [HEAD]
    for n, row in enumerate(rows):
        is_first = n == 0 or rows[n - 1].task != row.task
        cells.append(
            (
                row.task if is_first else "",
                f"{row.metric} ({row.filter})" if row.filter else row.metric,
                f"{row.value:.4f}",
                "" if row.stderr is None else f"{row.stderr:.4f}",
                str(row.documents) if is_first and row.documents is not None else "",
            )
        )
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [_line(line, widths) for line in cells]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Words to the left, numbers to the right."""
    padded = [
        cell.ljust(width) if n < 2 else cell.rjust(width)
        for n, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return GAP.join(padded).rstrip()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not math.isnan(value)
