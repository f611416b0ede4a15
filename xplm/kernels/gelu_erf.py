"""GELU in its exact form: x times the normal distribution's share below x.

    y = x Phi(x)        Phi(x) = (1 + erf(x / sqrt(2))) / 2

Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", arXiv:1606.08415, section 2; for erfc, Shepherd and
Laframboise, "Chebyshev approximation of (1 + 2x) exp(x^2) erfc x in 0 <= x < inf", Math. Comp. 36 (1981), 249-253.

Gradient. Phi' is the normal density, phi(x) = exp(-x^2 / 2) / sqrt(2 pi), so

    dx = dy * (Phi(x) + x phi(x))

Numerics. Runs in the wide dtype, rounded once. The array API has no erf. With t = |x| / sqrt(2) and
s = (t - 3.75) / (t + 3.75), which runs from -1 to 1,

    erfc(t) = exp(-t^2) / (1 + 2 t) * (c_0 + c_1 T_1(s) + c_2 T_2(s) + ...)

Phi(-|x|) = erfc(t) / 2 cancels nowhere. Its relative error is a few units in the last place near 0 and t^2 times as
many further out, as that of exp(-t^2) is. At t = 30 Phi has long been 0 or 1, and t^2 cannot overflow.
"""

import math
from typing import NamedTuple

from xplm.namespace import array_namespace
from xplm.precision import cast, wide_dtype
from xplm.typing import Array

ROOT_HALF = math.sqrt(0.5)
DENSITY = 1.0 / math.sqrt(2.0 * math.pi)
CENTRE = 3.75  # t where s is 0
FAR = 30.0

COEFFICIENTS = (
    *(1.1775789345674018, -4.5900545806464773e-3, -8.4249133366517916e-2, 5.9209939998191890e-2),
    *(-2.6658668435305752e-2, 9.0749976707052651e-3, -2.4131635404176082e-3, 4.9077583652580863e-4),
    *(-6.9169733025012064e-5, 4.1390279860730102e-6, 7.7403830661984907e-7, -2.1886401049234395e-7),
    *(1.0764999465670910e-8, 4.5219598112182869e-9, -7.7544002088313511e-10),
    *(-6.3180883408866845e-11, 2.8687950109306699e-11, 1.9455868545777347e-13),
    *(-9.6546967484334389e-13, 3.2525481481487398e-14, 3.3478119482868054e-14),
    *(-1.8645628804193131e-15, -1.2507950530688647e-15, 7.4182352566240435e-17),
)
"""c_0, c_1, ..., of which what is left out adds at most 6e-17."""
SINGLE = 13  # of them, of which what is left out adds at most 6e-9: all that float32 can hold


class GeluErfSaved(NamedTuple):
    x: Array  # (..., F)


def gelu_erf_fwd(x: Array) -> tuple[Array, GeluErfSaved]:
    """y = x Phi(x).   x (..., F)  ->  y (..., F) x.dtype"""
    xw = cast(x, wide_dtype(x, array_namespace(x)))

    share, _ = normal_share(xw)
    return cast(xw * share, x.dtype), GeluErfSaved(x)


def gelu_erf_bwd(dy: Array, saved: GeluErfSaved) -> tuple[Array]:
    """dx (..., F) in x's dtype, from dy (..., F)."""
    (x,) = saved
    wide = wide_dtype(x, array_namespace(dy))
    xw = cast(x, wide)

    # y = x Phi(x)
    share, e = normal_share(xw)
    dx = cast(dy, wide) * (share + xw * (DENSITY * e))
    return (cast(dx, x.dtype),)


def normal_share(x: Array) -> tuple[Array, Array]:
    """Phi(x) and exp(-x^2 / 2).   x (...) float32 or float64  ->  (...), (...)"""
    xp = array_namespace(x)
    t = xp.minimum(xp.abs(x) * ROOT_HALF, FAR)
    e = xp.exp(-t * t)

    s = (t - CENTRE) / (t + CENTRE)
    terms = COEFFICIENTS if x.dtype == xp.float64 else COEFFICIENTS[:SINGLE]
    tail = 0.5 * e * chebyshev(s, terms) / (1.0 + 2.0 * t)  # Phi(-|x|)
    return xp.where(x < 0.0, tail, 1.0 - tail), e


def chebyshev(s: Array, coefficients: tuple[float, ...]) -> Array:
    """The sum of c_k T_k(s) by Clenshaw's recurrence.   s (...) in [-1, 1]  ->  (...)"""
    first, *others = coefficients
    b1 = b2 = 0.0 * s
    for c in reversed(others):
        b1, b2 = 2.0 * s * b1 - b2 + c, b1
    return s * b1 - b2 + first
