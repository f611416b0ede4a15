"""How fast matrix products are here, for the commands that say it."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from xplm.blas import ProductRate


def product_lines(rates: Sequence[ProductRate]) -> list[str]:
    """A line a dtype: the way that is taken and what it gave when it was chosen, then the others.

    Args:
        rates: of a backend, those of one dtype together.
    """
    lines = []
    for dtype, group in groupby(rates, key=lambda rate: rate.dtype):
        ways = sorted(group, key=lambda rate: not rate.is_chosen)
        threads = f"on {ways[0].threads} thread{'s' * (ways[0].threads != 1)}"
        lines.append(f"{dtype} {threads}: {'; '.join(map(_described, ways))}")
    return lines


def products_json(rates: Sequence[ProductRate]) -> list[dict[str, Any]]:
    """The same as JSON."""
    return [rate._asdict() for rate in rates]


def _described(rate: ProductRate) -> str:
    flushed = ", subnormal operands read as 0" if rate.flushes_subnormals else ""
    place = "" if rate.is_chosen else "not taken: "
    return f"{place}{rate.library} {rate.flop_per_s / 1e9:.0f} GFLOP/s{flushed}"
