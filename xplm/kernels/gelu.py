"""GELU in its tanh form, the one of GPT-2.

    y = x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))

Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", arXiv:1606.08415, section 2.

Gradient. With u = sqrt(2/pi) (x + 0.044715 x^3), t = tanh(u) and tanh' = 1 - t^2,

    du/dx = sqrt(2/pi) (1 + 3 * 0.044715 x^2)
    dx    = dy * (1/2 (1 + t) + x/2 (1 - t^2) du/dx)

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


def gelu_bwd(dy: Array, saved: GeluSaved) -> tuple[Array]:
    """dx (..., F) in x's dtype, from dy (..., F)."""
    (x,) = saved
    xp = array_namespace(dy)
    wide = wide_dtype(x, xp)
    xw = cast(x, wide)

    # y = x/2 (1 + tanh(u)),  u = SCALE (x + CUBIC x^3)
    t = xp.tanh(SCALE * (xw + CUBIC * xw * xw * xw))
    du = SCALE * (1.0 + 3.0 * CUBIC * xw * xw)
    dx = cast(dy, wide) * (0.5 * (1.0 + t) + 0.5 * xw * (1.0 - t * t) * du)
    return (cast(dx, x.dtype),)
