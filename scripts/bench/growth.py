"""How a cost grows: the exponent p of cost = a n^p, as the slope of a line through the logarithms.

A cost with a part that does not grow has a slope below its true exponent; so it is fitted to the larger half of the
sizes, too, where that part weighs least.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np


class Growth(NamedTuple):
    """Exponents of a cost."""

    exponent: float  # over all sizes
    upper: float  # over the larger half of them


def fit_growth(costs: Mapping[int, float]) -> Growth:
    """Fit costs by their sizes, at least three of them."""
    sizes = sorted(costs)
    half = sizes[(len(sizes) - 1) // 2 :]
    return Growth(slope(sizes, [costs[n] for n in sizes]), slope(half, [costs[n] for n in half]))


def slope(sizes: list[int], costs: list[float]) -> float:
    """Least squares, in logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])
