"""GELU in its tanh form, the one of GPT-2.

    y = x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))

Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", arXiv:1606.08415, section 2.

Numerics. Runs in the wide dtype, rounded once.
"""

import math
from typing import NamedTuple

from xplm.namespace import array_namespace
from xplm.precision import cast, wide_dtype
from xplm.typing import Array

SCALE = math.sqrt(2.0 / math.pi)
CUBIC = 0.044715


class GeluSaved(NamedTuple):
    x: Array  # (..., F)


def gelu_fwd(x: Array) -> tuple[Array, GeluSaved]:
    """y = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).   x (..., F)  ->  y (..., F) x.dtype"""
    xp = array_namespace(x)
    xw = cast(x, wide_dtype(x, xp))

    y = 0.5 * xw * (1.0 + xp.tanh(SCALE * (xw + CUBIC * xw * xw * xw)))
    return cast(y, x.dtype), GeluSaved(x)
