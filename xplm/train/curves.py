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

LOGARITHMIC = ("perplexity", "gradient norm")
INSTALL = "pip install matplotlib"


def can_draw() -> bool:
    """Whether matplotlib, which the extra `plot` brings, is there."""
    return find_spec("matplotlib") is not None


def draw_curves(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Draw every panel into one picture, which replaces the last one as a whole.

    Args:
        path: the PNG file.
        lines: metrics by name, in the order of their steps; None where one was not measured.

    Raises:
        CheckpointError: the disk refuses.
    """
    from matplotlib.figure import Figure  # an optional extra, and slow to import

    figure = Figure(figsize=(15, 8))
    figure.subplots_adjust(left=0.05, right=0.98, bottom=0.07, top=0.95, wspace=0.18, hspace=0.28)
    axes = list(figure.subplots(2, 3).flat)
    for axis, (title, names) in zip(axes, PANELS.items(), strict=False):
        for name in names:
            points = [(line["step"], line[name]) for line in lines if line[name] is not None]
            if points:
                # A point alone would not show as a line.
                axis.plot(*zip(*points, strict=True), label=name, marker="." * (len(points) < 50))
        if title in LOGARITHMIC and axis.lines:
            axis.set_yscale("log")
        if len(axis.lines) > 1:
            axis.legend()
        axis.set(title=title, xlabel="step")
        axis.grid(alpha=0.3)
    for axis in axes[len(PANELS) :]:  # the panel that is left over
        axis.axis("off")

    partial = path.with_name(path.name + ".partial")
    with writing(path):
        figure.savefig(partial, format="png", dpi=80)
        partial.replace(path)
