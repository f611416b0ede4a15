"""Number formats as values, and rounding to them in arithmetic that every array library has.

A format with E exponent bits, M mantissa bits and bias b holds, with one sign bit,

    +- k * 2^(e - M)        min_exponent <= e <= max_exponent,  min_exponent = 1 - b
                            2^M <= k < 2^(M+1), or, at min_exponent, 0 <= k < 2^M (zero and subnormals)

Formats differ in what their top codes mean (`kind`), as ml_dtypes defines it:

    ieee    the largest exponent is infinity and NaN                        too large -> infinity
    fn      finite but for the very last code, which is NaN                 too large, infinity -> NaN
    fnuz    finite but for one NaN, which takes the code of -0              too large, infinity -> NaN
    finite  no infinity and no NaN                                          too large, infinity -> the largest; NaN -> 0

`round_to` keeps the rounded numbers in the float32 or float64 that they came in: float32 holds every format here. For
|x| = z 2^e the step of the format is u = 2^(e - M), and

    nearest     k = round(|x| / u), ties to even
    stochastic  k = floor(|x| / u) + [coin < |x| / u - floor(|x| / u)], so that E[k u] = |x| for a uniform coin

The standard has neither frexp nor a view of bits, so 2^e comes from rounding errors: with eps = 2^-53 or 2^-24,
|x| + |x| eps (1 + 2 eps) rounds to the next number above |x|, which lies 2^(e+1) eps away.

Sources: IEEE 754-2019; Micikevicius et al., "FP8 Formats for Deep Learning", arXiv:2209.05433; Noune et al., "8-bit
Numerical Formats for Deep Neural Networks", arXiv:2206.02915 (fnuz); the OCP Microscaling Formats specification (6 and
4 bits); the next number above: Rump, Zimmermann, Boldo and Melquiond, "Computing predecessor and successor in rounding
to nearest", BIT 49 (2009).

Numerics. Every step but that one addition, and round or floor, is exact: a product or quotient by a power of two.
A library that takes float32's subnormals for zero, as XLA does on CPUs, loses those of bfloat16 and tf32 too.
"""

import math
import re
from dataclasses import dataclass, replace

from xplm.errors import RequestError, did_you_mean
from xplm.namespace import array_namespace
from xplm.typing import Array, ArrayT


@dataclass(frozen=True)
class Format:
    """A binary floating-point format."""

    name: str  # ml_dtypes' or the array API's where they have one
    exponent_bits: int
    mantissa_bits: int  # stored ones
    kind: str = "ieee"  # what the top codes mean, as above
    excess: int = 0  # of the bias over the usual 2^(exponent_bits - 1) - 1

    @property
    def min_exponent(self) -> int:
        """The exponent of the smallest normal number."""
        return 2 - 2 ** (self.exponent_bits - 1) - self.excess

    @property
    def max_exponent(self) -> int:
        """The exponent of the largest finite number."""
        top = 2**self.exponent_bits - 2 + self.min_exponent
        return top - 1 if self.kind == "ieee" else top

    @property
    def max(self) -> float:
        """The largest finite number."""
        missing = 1 if self.kind == "fn" else 0  # the last code is NaN
        steps = 2 ** (self.mantissa_bits + 1) - 1 - missing
        return math.ldexp(steps, self.max_exponent - self.mantissa_bits)

    @property
    def overflow(self) -> float:
        """What takes the place of positive numbers that are too large."""
        return {"ieee": math.inf, "finite": self.max}.get(self.kind, math.nan)

    @property
    def smallest_normal(self) -> float:
        """2^min_exponent."""
        return math.ldexp(1.0, self.min_exponent)

    @property
    def eps(self) -> float:
        """The distance from 1 to the next number; rounding to nearest errs by half of it, relatively."""
        return math.ldexp(1.0, -self.mantissa_bits)


FORMATS: dict[str, Format] = {
    format.name: format
    for format in (
        Format("float64", 11, 52),
        Format("float32", 8, 23),
        Format("tf32", 8, 10),
        Format("bfloat16", 8, 7),
        Format("float16", 5, 10),
        Format("float8_e3m4", 3, 4),
        Format("float8_e4m3", 4, 3),
        Format("float8_e4m3fn", 4, 3, "fn"),
        Format("float8_e4m3fnuz", 4, 3, "fnuz", excess=1),
        Format("float8_e4m3b11fnuz", 4, 3, "fnuz", excess=4),
        Format("float8_e5m2", 5, 2),
        Format("float8_e5m2fnuz", 5, 2, "fnuz", excess=1),
        Format("float6_e2m3fn", 2, 3, "finite"),
        Format("float6_e3m2fn", 3, 2, "finite"),
        Format("float4_e2m1fn", 2, 1, "finite"),
    )
}
"""Formats by name: the array API's, tf32, and those of ml_dtypes that have a sign and a zero."""


def find_format(name: str) -> Format:
    """A format by its name in FORMATS, or by its bits, such as "e5m7".

    Raises:
        RequestError: no format has that name.
    """
    format = FORMATS.get(name) or format_of_bits(name)
    if format is None:
        raise RequestError(
            f'a number format is one of {", ".join(FORMATS)}, or bits such as e5m7; got "{name}"'
            f"{did_you_mean(name, FORMATS)}"
        )
    return format


def format_of_bits(text: str) -> Format | None:
    """The format of so many bits, with infinities and NaN as IEEE 754 has them.

    Args:
        text: "eXmY": 2 to 8 exponent bits, 1 to 23 mantissa bits; more do not fit into float32.

    Returns:
        The format, under its name in FORMATS where it is there; None if the text is not of that form.
    """
    found = re.fullmatch(r"e([2-8])m([1-9]|1\d|2[0-3])", text)
    if not found:
        return None
    exponent_bits, mantissa_bits = (int(n) for n in found.groups())
    plain = Format(text, exponent_bits, mantissa_bits)
    known = [format for format in FORMATS.values() if replace(format, name=text) == plain]
    return known[0] if known else plain


LIFT = 2.0**64
"""Lifts float32's smallest numbers to where nothing underflows, and 1 to where nothing overflows."""


def round_to(x: ArrayT, format: Format, *, coin: Array | None = None) -> ArrayT:
    """x rounded to a format, in the dtype it has.   x float32 or float64; coin like x, in [0, 1)  ->  y like x

    To nearest, ties to even; with a coin, up or down at random. What nearest rounding takes out of range overflows
    with a coin too, and what it does not stays in range.
    """
    xp = array_namespace(x)
    is_wide = x.dtype == xp.float64
    M = format.mantissa_bits
    own = FORMATS["float64" if is_wide else "float32"]
    if own.mantissa_bits <= M:
        return x
    eps = own.eps / 2.0

    size = xp.abs(x)
    z = xp.minimum(size, format.max)
    smallest = format.smallest_normal
    has_tiny = not is_wide and format.min_exponent < -100
    if has_tiny:
        lift = xp.where(size < 1.0, xp.full_like(x, LIFT), xp.ones_like(x))
        z = z * lift
        smallest = smallest * LIFT  # far below what is not lifted

    base = xp.maximum(z, smallest)
    step = ((base + base * (eps * (1.0 + 2.0 * eps))) - base) * (2.0**-M / (2.0 * eps))
    steps = z / step
    if coin is None:
        steps = xp.round(steps)
    else:
        whole = xp.floor(steps)
        steps = xp.where(coin < steps - whole, whole + 1.0, whole)
    y = steps * step
    if has_tiny:
        y = y / lift

    return _signed(x, y, size, format)


def _signed(x: Array, y: ArrayT, size: Array, format: Format) -> ArrayT:
    """The rounded magnitude y with x's sign, and what the format makes of overflow, infinity, NaN and -0."""
    xp = array_namespace(x)
    limit = format.max + 0.5 * math.ldexp(1.0, format.max_exponent - format.mantissa_bits)
    is_over = size > limit if format.kind == "fn" else size >= limit  # a tie goes to the even one
    if format.kind == "finite":  # ml_dtypes: NaN -> -0, -NaN -> 0
        sign = xp.copysign(xp.ones_like(y), x)  # a GPU keeps no NaN's sign in -x
        y = xp.where(xp.isnan(x), xp.zeros_like(y), y)
        return xp.copysign(y, xp.where(xp.isnan(x), -sign, sign))

    y = xp.copysign(xp.where(is_over, xp.full_like(y, format.overflow), y), x)
    return xp.where(y == 0.0, xp.zeros_like(y), y) if format.kind == "fnuz" else y
