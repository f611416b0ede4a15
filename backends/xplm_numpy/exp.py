"""exp in float32 that a loop can do eight at a time; the C library's takes one.

    n = round(x / ln 2),  r = x - n ln 2,  exp(x) = 2^n p(r)        |r| <= ln(2) / 2

Sources: Cody and Waite, "Software Manual for the Elementary Functions" (1980), chapter 6, for ln 2 in two parts; p is
the polynomial of degree 7 of the Cephes library (Moshier, 1992), expf.

Numerics. Within 1 unit in the last place, and exactly 1 at 0. Below the smallest normal result, x < -87.3, it is 0;
above x = 88.3 infinity, a little before float32 ends. NaN stays NaN.
"""

import numpy as np

from xplm_numpy.dot import multiply_add
from xplm_numpy.jit import exact
from xplm_numpy.narrow import as_bits, from_bits

LOG2_E = np.float32(1.44269504088896341)
LN2_HIGH = np.float32(0.693359375)  # few bits: n times it is exact
LN2_LOW = np.float32(-2.12194440e-4)
ROUND = np.float32(12582912.0)  # 1.5 * 2^23: adding it leaves no bits below the unit
LOWEST, HIGHEST = np.float32(-87.3), np.float32(88.3)


@exact()
def exp(x):
    """The exponential of a float32."""
    shifted = multiply_add(x, LOG2_E, ROUND)
    n = shifted - ROUND
    r = multiply_add(n, -LN2_LOW, multiply_add(n, -LN2_HIGH, x))

    p = np.float32(1.9875691500e-4)
    p = multiply_add(p, r, np.float32(1.3981999507e-3))
    p = multiply_add(p, r, np.float32(8.3334519073e-3))
    p = multiply_add(p, r, np.float32(4.1665795894e-2))
    p = multiply_add(p, r, np.float32(1.6666665459e-1))
    p = multiply_add(p, r, np.float32(5.0000001201e-1))
    y = multiply_add(p * r, r, r) + np.float32(1.0)

    scale = from_bits(np.uint32((as_bits(shifted) + np.uint32(127)) << np.uint32(23)))
    y = y * scale
    y = np.float32(0.0) if x < LOWEST else y
    return np.float32(np.inf) if x > HIGHEST else y
