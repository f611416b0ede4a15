"""The picture of bench_peers.py: speeds beside the bandwidth limit, and ratios beside their thresholds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.peers_rows import Speed
from bench.turns import Spread
from bench.verdicts import Row

OURS, THEIRS, LIMIT, MISSED = "#1f77b4", "#9aa0a6", "#d62728", "#d62728"


def draw(path: Path, speeds: Sequence[Speed], rows: Sequence[Row], title: str) -> None:
    """Write a PNG.

    Args:
        path: the file.
        speeds: bars, with whiskers from quartile to quartile.
        rows: those with a threshold are drawn, as shares of it.
        title: of the whole.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    judged = [row for row in rows if row.sense]
    height = max(3.0, 0.42 * len(speeds), 0.36 * len(judged)) + 1.4
    figure, (decode, prefill, ratios) = plt.subplots(
        1, 3, figsize=(19, height), width_ratios=(1, 1, 0.8), layout="constrained"
    )
    names = [speed.system for speed in speeds]
    draw_bars(decode, names, [speed.decode for speed in speeds])
    decode.set_title("decode, tokens/s (red: bandwidth limit)")
    for place, speed in enumerate(speeds):
        decode.plot(2 * [speed.limit.median], [place - 0.4, place + 0.4], color=LIMIT, linewidth=2)
    draw_bars(prefill, names, [speed.prefill for speed in speeds])
    prefill.set_title("prefill, tokens/s")
    prefill.set_yticklabels([])
    draw_ratios(ratios, judged)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_bars(axes: Any, names: Sequence[str], speeds: Sequence[Spread]) -> None:
    """A bar a system, the first on top."""
    colors = [OURS if name.startswith("xplm") else THEIRS for name in names]
    medians = [speed.median for speed in speeds]
    errors = [[s.median - s.low for s in speeds], [s.high - s.median for s in speeds]]
    axes.barh(range(len(names)), medians, color=colors, xerr=errors)
    for place, median in enumerate(medians):
        axes.text(median, place + 0.32, f" {median:.0f}", va="center", fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.grid(axis="x", alpha=0.3)


def draw_ratios(axes: Any, rows: Sequence[Row]) -> None:
    """Each figure as a multiple of its threshold, so that all share one line: above it, or below, as was asked."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    notes = []
    for place, row in enumerate(rows):
        axes.plot(row.value / row.limit, place, "o", color=OURS if row.is_met else MISSED)
        asked = "at least" if row.sense == ">=" else "at most"
        verdict = "met" if row.is_met else "MISSED"
        notes.append(f"{row.what}: {row.value:.3g}, {asked} {row.limit:g}: {verdict}")
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="both", labelsize=8)
    axes.set_yticks(range(len(rows)), notes, fontsize=8)
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_color("black" if row.is_met else MISSED)
    axes.yaxis.tick_right()
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.grid(axis="x", alpha=0.3)
    axes.set_title("figure / threshold")
