"""curves.png: a run's metrics over its steps."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from xplm.checkpoint.files import writing

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
    from matplotlib.figure import Figure  # an optional extra, and slow to import
    from matplotlib.ticker import LogLocator

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
            axis.set_yscale("log")
            axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.yaxis.set_minor_formatter("")
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

    partial = path.with_name(path.name + ".partial")
    with writing(path):
        figure.savefig(partial, format="png", dpi=80)
        partial.replace(path)


def _points(lines: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """A metric's steps and values."""
    return [(line["step"], line[name]) for line in lines if line[name] is not None]
