"""curves.png: a run's metrics over its steps."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from math import inf, log10
from pathlib import Path
from typing import Any

from xplm.checkpoint.files import replacing, writing

PANELS = {
    "loss": ("train_loss", "val_loss"),
    "perplexity": ("perplexity",),
    "accuracy": ("val_accuracy",),
    "learning rate": ("lr",),
    "gradient norm": ("grad_norm",),
}
"""A panel's title, and the metrics in it."""

COLUMNS = 3
LOGARITHMIC = ("perplexity", "gradient norm")
FROM_ZERO = ("accuracy", "learning rate")
FEW_DECADES, MANY_DECADES = 0.7, 3.5
LARGEST = 1e100  # matplotlib computes with powers of what it draws
INSTALL = "pip install matplotlib"


def can_draw() -> bool:
    """Whether matplotlib, which the extra `plot` brings, is there."""
    return find_spec("matplotlib") is not None


def draw_curves(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Draw every panel that has something to show into one picture, which replaces the last one as a whole.

    Args:
        path: the PNG file.
        lines: metrics by name, in the order of their steps; None where one was not measured.

    Raises:
        CheckpointError: the disk refuses.
    """
    figure = make_figure(lines)
    with writing(path), replacing(path) as file:
        figure.savefig(file, format="png", dpi=80)


def make_figure(lines: Sequence[Mapping[str, Any]]) -> Any:
    """The picture, as matplotlib has it."""
    from matplotlib.figure import Figure  # an optional extra, and slow to import

    panels = {
        title: drawn
        for title, names in PANELS.items()
        if (drawn := [(name, points) for name in names if (points := _points(lines, name))])
    }
    n_rows = max(1, -(-len(panels) // COLUMNS))
    figure = Figure(figsize=(5 * COLUMNS, 4 * n_rows))
    for place, (title, drawn) in enumerate(panels.items(), start=1):
        axis = figure.add_subplot(n_rows, COLUMNS, place)
        for name, points in drawn:
            # A point alone would not show as a line.
            axis.plot(*zip(*points, strict=True), label=name, marker="." * (len(points) < 50))
        if title in LOGARITHMIC:
            _make_logarithmic(axis, [value for _, points in drawn for _, value in points])
        if title in FROM_ZERO:
            axis.set_ylim(bottom=0.0)
        axis.yaxis.set_major_formatter("{x:g}")
        if len(drawn) > 1:
            axis.legend()
        axis.set_title(title, y=1.0)  # else every label is laid out to find room for it
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    figure.subplots_adjust(
        left=0.05, right=0.98, bottom=0.14 / n_rows, top=1 - 0.1 / n_rows, wspace=0.18, hspace=0.28
    )
    return figure


def _points(lines: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """A metric's steps and values, but for those that no axis can hold."""
    values = [(line["step"], line.get(name)) for line in lines]
    return [
        (step, value)
        for step, value in values
        if isinstance(value, int | float) and not abs(value) > LARGEST
    ]


def _make_logarithmic(axis: Any, values: Sequence[float]) -> None:
    """Numbers as they are read beside an axis: even steps, or 1, 2 and 5 of each decade, or decades alone."""
    from matplotlib.ticker import AutoLocator, LogLocator

    axis.set_yscale("log")
    axis.yaxis.set_minor_formatter("")
    sizes = [value for value in values if 0.0 < value < inf]
    decades = log10(max(sizes) / min(sizes)) if sizes else 0.0
    if decades < FEW_DECADES:
        axis.yaxis.set_major_locator(AutoLocator())
    elif decades < MANY_DECADES:
        axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
