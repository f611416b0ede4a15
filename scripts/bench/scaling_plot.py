"""The picture of bench_scaling.py: a panel a sweep, time and memory over size, both axes logarithmic."""

from collections.abc import Mapping
from pathlib import Path

from bench.growth import Growth
from bench.scaling import SWEEPS

TIME, MEMORY = "#1f77b4", "#9aa0a6"


def draw(
    path: Path,
    seconds: Mapping[str, Mapping[int, float]],
    memory: Mapping[str, Mapping[int, float]],
    growth: Mapping[str, Growth],
    title: str,
) -> None:
    """Write a PNG.

    Args:
        path: the file.
        seconds: by sweep and size.
        memory: bytes, by sweep and size.
        growth: of the seconds.
        title: of the whole.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, StrMethodFormatter

    figure, panels = plt.subplots(
        1, len(seconds), figsize=(5 * len(seconds), 4.6), layout="constrained", squeeze=False
    )
    for axes, (name, costs) in zip(panels[0], seconds.items(), strict=True):
        sweep, sizes = SWEEPS[name], list(costs)
        axes.loglog(sizes, [1e3 * cost for cost in costs.values()], "o-", color=TIME)
        axes.set_xlabel(sweep.size)
        axes.set_ylabel(f"milli{sweep.cost}", color=TIME)
        right = axes.twinx()
        right.loglog(sizes, [taken / 1e6 for taken in memory[name].values()], "s--", color=MEMORY)
        right.set_ylabel("memory, MB", color="#5f6368")
        axes.set_xticks(sizes, [str(size) for size in sizes], rotation=45)
        axes.xaxis.set_minor_locator(NullLocator())
        for side in (axes, right):
            side.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            side.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            side.yaxis.set_minor_formatter(NullFormatter())
        exponent, upper = growth[name]
        axes.set_title(
            f"{name}: time grows as {sweep.size}^{exponent:.2f}\n"
            f"in the larger half ^{upper:.2f}; expected in the end ^{sweep.expected:g}",
            fontsize=10,
        )
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    plt.close(figure)
