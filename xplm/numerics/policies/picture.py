"""Policies as pictures: what `sweep` and `training` measured, as PNG files.

Colours are Okabe and Ito's, which people with any colour vision tell apart; line styles and markers change with them,
so that a print in grey can be read too.
"""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from xplm.checkpoint.files import replacing, writing

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", ":", "-.")
MARKERS = "osD^vPX*"
SMALLEST_KL = 1e-7
"""Nats; below it, the rounding of float32 exponentials is all that there is to see."""

MOST_SMOOTHED = 50
"""Steps that a loss curve is averaged over, at most."""

PolicyFigures = Mapping[str, Any]
"""A policy's figures, by name."""


def draw_sweep(path: Path, rows: Sequence[PolicyFigures], title: str) -> None:
    """Four panels: KL, drift by layer, KL by position, memory and speed.

    Args:
        path: the PNG file, which is replaced as a whole.
        rows: `xplm.numerics.policies.sweep.row`'s, each with its `peak_bytes`.
        title: what was measured on what.

    Raises:
        CheckpointError: the disk refuses.
    """
    figure, axes = _figure(title, len(rows))
    looks = {row["policy"]: _look(i) for i, row in enumerate(rows)}

    _bars(axes[0], rows, looks, _kl, _kl_label)
    axes[0].set(title="KL to fp32", xlabel="nats a token", xscale="log")
    axes[0].set_xlim(left=SMALLEST_KL / 3)

    for row in rows:
        drift = [(i, d) for i, d in enumerate(row["drift_by_layer"]) if d > 0.0 and isfinite(d)]
        _line(axes[1], drift, looks[row["policy"]], row["policy"])
    axes[1].set(title="Drift of the residual stream", xlabel="after block", yscale="log")
    axes[1].set_ylabel("relative error, mean over tokens")

    for row in rows:
        points = [(p["from"], p["kl"]) for p in row["kl_by_position"]]
        points = [(max(x, 32), y) for x, y in points if y > SMALLEST_KL and isfinite(y)]
        _line(axes[2], points, looks[row["policy"]], row["policy"])
    axes[2].set(title="KL by position", xlabel="position in the window, from", yscale="log")
    axes[2].set_ylabel("KL to fp32, nats a token")
    _name_positions(axes[2], rows)

    _bars(axes[3], rows, looks, _megabytes, _memory_label)
    axes[3].set(title="Memory at its peak, and speed", xlabel="MB")
    _legend(figure, axes[1], len(rows))
    _save(figure, path)


def draw_training(path: Path, rows: Sequence[PolicyFigures], title: str) -> None:
    """Four panels: loss, loss on text held out, loss less the first policy's, loss scale with skipped steps.

    Args:
        path: the PNG file, which is replaced as a whole.
        rows: `xplm.numerics.policies.training.row`'s.
        title: what was trained on what.

    Raises:
        CheckpointError: the disk refuses.
    """
    figure, axes = _figure(title, len(rows))
    first = rows[0]
    for i, row in enumerate(rows):
        look, name = _look(i), row["policy"]
        _line(axes[0], _smoothed(row["losses"]), look, name, marks=False)
        _line(axes[1], _held_out(row), look, name)
        if row is not first:
            off = [a - b for a, b in zip(row["losses"], first["losses"], strict=False)]
            _line(axes[2], _smoothed(off), look, name, marks=False)
        _line(axes[3], list(enumerate(row["scales"], 1)), look, name, marks=False)
        axes[3].plot(
            row["skipped_steps"],
            [row["scales"][step - 1] for step in row["skipped_steps"]],
            "x", color=look["color"], ms=8, mew=2,
        )  # fmt: skip
    axes[0].set(title="Training loss", xlabel="step", ylabel="nats a token")
    axes[1].set(title="Loss on text held out", xlabel="step", ylabel="nats a token")
    axes[2].set(title=f"Training loss less that of {first['policy']}", xlabel="step")
    axes[2].set_ylabel("nats a token")
    axes[2].axhline(0.0, color="0.4", lw=1)
    axes[3].set(title="Loss scale; a cross is a step skipped", xlabel="step", ylabel="factor")
    axes[3].set_yscale("log", base=2)
    _legend(figure, axes[0], len(rows))
    _save(figure, path)


def _figure(title: str, n_rows: int) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure  # an optional extra, and slow to import

    figure = Figure(figsize=(13.0, 9.5 + 0.25 * max(0, n_rows - 6)), layout="constrained")
    figure.suptitle(title, fontsize=13)
    axes = list(figure.subplots(2, 2).flat)
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.get_major_locator().set_params(integer=True)
    return figure, axes


def _look(index: int) -> dict[str, Any]:
    return {
        "color": COLOURS[index % len(COLOURS)],
        "ls": STYLES[index % len(STYLES)],
        "marker": MARKERS[index % len(MARKERS)],
    }


def _line(
    axis: Any,
    points: Sequence[tuple[int, float]],
    look: dict[str, Any],
    name: str,
    marks: bool = True,
) -> None:
    """One policy's curve; its name goes into the legend even where it has no point."""
    if not marks:
        look = look | {"marker": ""}
    xs, ys = zip(*points, strict=True) if points else ((), ())
    axis.plot(xs, ys, label=name, ms=5, lw=1.8, markevery=max(1, len(xs) // 10), **look)


def _bars(
    axis: Any,
    rows: Sequence[PolicyFigures],
    looks: Mapping[str, Any],
    size_of: Callable[[PolicyFigures], float],
    label: Callable[[PolicyFigures], str],
) -> None:
    """A horizontal bar a policy, the first on top, with its figures written beside it; infinity is as long as any."""
    sizes = [size_of(row) for row in rows]
    largest = max([s for s in sizes if isfinite(s)], default=1.0)
    for i, (row, size) in enumerate(zip(rows, sizes, strict=True)):
        length = size if isfinite(size) else largest
        axis.barh(i, length, color=looks[row["policy"]]["color"], height=0.7)
        axis.annotate(
            label(row), (length, i), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9,
        )  # fmt: skip
    axis.set_yticks(range(len(rows)), [row["policy"] for row in rows])
    axis.invert_yaxis()
    axis.grid(axis="y", alpha=0.0)
    axis.margins(x=0.35)


def _kl(row: PolicyFigures) -> float:
    return max(row["kl"], SMALLEST_KL)


def _kl_label(row: PolicyFigures) -> str:
    kl = "0" if row["kl"] == 0.0 else f"{row['kl']:.2g}"
    return f"{kl}   perplexity {row['perplexity']:.4g}"


def _megabytes(row: PolicyFigures) -> float:
    return float(row["peak_bytes"]) / 1e6


def _memory_label(row: PolicyFigures) -> str:
    return f"{_megabytes(row):.0f} MB,  {row['tokens_per_s']:.0f} tokens/s"


def _name_positions(axis: Any, rows: Sequence[PolicyFigures]) -> None:
    """A tick a bin: where it begins."""
    firsts = sorted({p["from"] for row in rows for p in row["kl_by_position"]})
    axis.set_xscale("log", base=2)
    axis.set_xticks([max(first, 32) for first in firsts], [str(first) for first in firsts])
    axis.minorticks_off()


def _held_out(row: PolicyFigures) -> list[tuple[int, float]]:
    return [(point["step"], point["loss"]) for point in row["val_losses"]]


def _smoothed(losses: Sequence[float]) -> list[tuple[int, float]]:
    """(step, mean of the steps up to it) with as many steps to a mean as the length of the run can spare."""
    n = max(1, min(MOST_SMOOTHED, len(losses) // 10))
    means, total = [], 0.0
    for i, loss in enumerate(losses):
        total += loss - (losses[i - n] if i >= n else 0.0)
        means.append((i + 1, total / min(i + 1, n)))
    return [(step, mean) for step, mean in means if isfinite(mean)]


def _legend(figure: Any, axis: Any, n_rows: int) -> None:
    handles, names = axis.get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside lower center", ncols=min(n_rows, 5), frameon=False, fontsize=10,
        handlelength=3.5,
    )  # fmt: skip


def _save(figure: Any, path: Path) -> None:
    with writing(path), replacing(path) as file:
        figure.savefig(file, format="png", dpi=100)
