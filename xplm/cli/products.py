"""How fast matrix products are here, for the commands that say it."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from xplm.backend import ProductRate


def product_lines(rates: Sequence[ProductRate]) -> list[str]:
    """A line a dtype: the way that is taken and what it gives, then the others.

    Args:
        rates: of a backend, those of one dtype together.
    """
    lines = []
    for dtype, group in groupby(rates, key=lambda rate: rate.dtype):
        ways = list(group)
        chosen = [f"{_gflops(way)} GFLOP/s by {way.library}" for way in ways if way.is_chosen]
        others = [f"{way.library} {_gflops(way)}" for way in ways if not way.is_chosen]
        lines.append("; ".join([f"{dtype} {chosen[0]}", *others]))
    return lines


def products_json(rates: Sequence[ProductRate]) -> list[dict[str, Any]]:
    """The same as JSON."""
    return [rate._asdict() for rate in rates]


def _gflops(rate: ProductRate) -> str:
    return f"{rate.flop_per_s / 1e9:.0f}"
