"""Numbers with the most that arithmetic in a format can be off by: the analysis behind every verdict of parity.

A format with p bits of significand, which rounds to nearest, has the unit roundoff u = 2^-p. In it

    fl(a op b) = (a op b) (1 + d) + e         |d| <= u,  |e| <= eta where the result underflows
    fl(sum of n terms)  is off by at most  ((1 + u)^(n-1) - 1) sum |terms|     whatever the order of summation
    fl(x . y), n terms  is off by at most  ((1 + u)^n - 1) |x| . |y|

(1 + u)^n - 1 is what Higham bounds by gamma_n = n u / (1 - n u); as it stands it is finite for every n, also where
n u > 1, as in sums of 256 terms in bfloat16.

Why not the probabilistic bound, sqrt(n) lambda u: it supposes errors that are independent and have mean zero. A row of
equal or of growing partial sums breaks that, and then the bound raises a false alarm. Little is lost by being safe:
the last rounding of a result is not estimated at all but undone (see `judge`), and what is left of the bound, n u of
float32, is far below one spacing of float16 or bfloat16.

A Ball is a centre and a radius, both computed in float64: a running error bound. Its operations are those of kernels;
each carries the radii of its operands over, exactly to first and second order, and adds its own rounding. The centre is
itself rounded in float64, so every u here is u + 2^-53.

Sources: Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed., SIAM 2002: section 2.2 (the model),
chapter 3 (dot products; section 3.3 for running bounds), section 4.2 (sums in any order). Higham and Mary, "A new
approach to probabilistic rounding error analysis", SIAM J. Sci. Comput. 41 (2019), doi 10.1137/18M1226312, is the
probabilistic bound.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import ml_dtypes
import numpy as np

CENTRE_ROUNDOFF = 2.0**-53
"""The unit roundoff of float64, which centres are computed in."""

FUNCTION_ULPS = 4.0
"""The most that exp, log, tanh, sin and cos may be off by, in units of 2 u |y|. On grids of two million float32
numbers, the worst beside float64 were 2.0 in NumPy 2.4 (log), 0.8 in PyTorch 2.13 (log) and 2.4 in JAX (tanh), all on
a CPU. No GPU's library has been measured."""

QUOTIENT_ULPS = 1.0
"""The same for division and square root: 1/2 where IEEE 754 is kept, up to 1 where a library multiplies by 1/x."""


class Ball(NamedTuple):
    """All numbers within a radius of a centre, entry by entry."""

    mid: np.ndarray  # float64
    rad: np.ndarray  # float64, at least 0, mid's shape

    def map(self, change: Callable[[np.ndarray], np.ndarray]) -> "Ball":
        """The same rearrangement of centre and radius."""
        return Ball(change(self.mid), change(self.rad))

    @property
    def size(self) -> np.ndarray:
        """The largest absolute value in it."""
        return np.abs(self.mid) + self.rad


def exact(array: np.ndarray) -> Ball:
    """An array of any float dtype as it is."""
    mid = np.asarray(array, np.float64)
    return Ball(mid, np.zeros_like(mid))


def operand(array: np.ndarray) -> Ball:
    """An array that is multiplied by a matrix: a processor's bfloat16 instructions read subnormal numbers as zeros."""
    ball = exact(array)
    if array.dtype == ml_dtypes.bfloat16:
        size = np.abs(ball.mid)
        ball = ball._replace(rad=np.where(size < underflow(array.dtype), size, 0.0))
    return ball


def where(condition: np.ndarray, yes: Ball, no: float) -> Ball:
    """`yes` where the condition holds, else exactly `no`."""
    return Ball(np.where(condition, yes.mid, no), np.where(condition, yes.rad, 0.0))


def unit_roundoff(dtype: np.dtype) -> float:
    """2^-p of a format with p bits of significand: the most that rounding to nearest changes a number by, relative."""
    return float(ml_dtypes.finfo(dtype).eps) / 2.0


def underflow(dtype: np.dtype) -> float:
    """The most that one operation is off by for underflow.

    Half a spacing of the subnormals in float16, which every library rounds to from float32. The smallest normal number
    in the others: some libraries and processors flush what is below it to zero.
    """
    info = ml_dtypes.finfo(dtype)
    if float(info.smallest_normal) > 2.0**-100:
        return float(info.smallest_subnormal) / 2.0
    return float(info.smallest_normal)


def wide_of(dtype: np.dtype) -> np.dtype:
    """float64 for float64, float32 for every narrower float."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def may_round(ball: Ball, dtype: np.dtype) -> Ball:
    """The numbers of a ball, and what they become when stored in a format: kernels may store an intermediate, or not.

    Rounding is monotone, so it is enough to round both ends.
    """
    low, high = ball.mid - ball.rad, ball.mid + ball.rad
    low = np.minimum(low, low.astype(dtype).astype(np.float64))
    high = np.maximum(high, high.astype(dtype).astype(np.float64))
    mid = np.where(np.isfinite(low) & np.isfinite(high), low + (high - low) / 2.0, ball.mid)
    rad = np.maximum(high - mid, mid - low)
    return Ball(mid, rad * (1.0 + 2.0 * CENTRE_ROUNDOFF))


@dataclass(frozen=True)
class Arithmetic:
    """Operations on balls as they are carried out in one format."""

    dtype: np.dtype

    @property
    def u(self) -> float:
        """Unit roundoff, of the format and of the centre together."""
        return unit_roundoff(self.dtype) + CENTRE_ROUNDOFF

    @property
    def eta(self) -> float:
        """What underflow may add."""
        return underflow(self.dtype)

    def gamma(self, n: int) -> float:
        """(1 + u)^n - 1, for n roundings in a row."""
        return math.expm1(n * math.log1p(self.u))

    def rounded(self, mid: np.ndarray, rad: np.ndarray, ulps: float = 0.5) -> Ball:
        """A result with what its operands' radii make of it, and its own rounding on top."""
        return Ball(mid, rad + 2.0 * ulps * self.u * (np.abs(mid) + rad) + self.eta)

    def scalar(self, value: float) -> Ball:
        """A constant, which the format may have to round."""
        mid = np.asarray(value, np.float64)
        return Ball(mid, np.asarray(self.u * abs(value)))

    def stored(self, ball: Ball) -> Ball:
        """A ball cast to this format, which changes nothing where it is wide enough."""
        return may_round(ball, self.dtype)

    def plus(self, a: Ball, b: Ball) -> Ball:
        """a + b"""
        return self.rounded(a.mid + b.mid, a.rad + b.rad)

    def minus(self, a: Ball, b: Ball) -> Ball:
        """a - b"""
        return self.rounded(a.mid - b.mid, a.rad + b.rad)

    def times(self, a: Ball, b: Ball) -> Ball:
        """a b"""
        return self.rounded(a.mid * b.mid, np.abs(a.mid) * b.rad + a.rad * b.size)

    def over(self, a: Ball, b: Ball) -> Ball:
        """a / b, for b that stays away from 0.   |a'/b' - a/b| <= (|a/b| rb + ra) / (|b| - rb)"""
        mid = a.mid / b.mid
        least = np.maximum(np.abs(b.mid) - b.rad, 0.0)
        return self.rounded(mid, (np.abs(mid) * b.rad + a.rad) / least, QUOTIENT_ULPS)

    def root(self, a: Ball) -> Ball:
        """The square root.   |sqrt(a') - sqrt(a)| = |a' - a| / (sqrt(a') + sqrt(a))"""
        mid = np.sqrt(a.mid)
        least = np.sqrt(np.maximum(a.mid - a.rad, 0.0))
        return self.rounded(mid, a.rad / (mid + least), QUOTIENT_ULPS)

    def exp(self, a: Ball) -> Ball:
        """The exponential, e^a, which moves by at most e^a (e^ra - 1)."""
        mid = np.exp(a.mid)
        return self.rounded(mid, mid * np.expm1(a.rad), FUNCTION_ULPS)

    def log(self, a: Ball) -> Ball:
        """The logarithm, for a >= 1, which moves by at most ra / (a - ra)."""
        least = np.maximum(a.mid - a.rad, 0.0)
        return self.rounded(np.log(a.mid), a.rad / least, FUNCTION_ULPS)

    def tanh(self, a: Ball) -> Ball:
        """The hyperbolic tangent, whose slope is at most 1."""
        return self.rounded(np.tanh(a.mid), a.rad, FUNCTION_ULPS)

    def sigmoid(self, a: Ball) -> Ball:
        """1 / (1 + exp(-a)), by any of its formulas: an exponential, a sum and a quotient, of slope at most s."""
        mid = np.exp(np.minimum(a.mid, 0.0)) / (1.0 + np.exp(-np.abs(a.mid)))
        ulps = FUNCTION_ULPS + 0.5 + QUOTIENT_ULPS
        return self.rounded(mid, mid * np.expm1(a.rad), ulps)

    def sum(self, a: Ball, axis: int | tuple[int, ...], keepdims: bool = False) -> Ball:
        """The sum along axes."""
        mid = np.sum(a.mid, axis=axis, keepdims=keepdims)
        n = max(1, a.mid.size // max(1, mid.size))
        size = np.sum(a.size, axis=axis, keepdims=keepdims)
        rad = np.sum(a.rad, axis=axis, keepdims=keepdims)
        return Ball(mid, rad + self.gamma(n) * size + n * self.eta)

    def mean(self, a: Ball, axis: int = -1) -> Ball:
        """The mean along an axis, which stays."""
        total = self.sum(a, axis, keepdims=True)
        return self.over(total, self.scalar(a.mid.shape[axis]))

    def matmul(self, a: Ball, b: Ball) -> Ball:
        """a @ b.   (..., m, n) and (..., n, k)"""
        mid = a.mid @ b.mid
        n = a.mid.shape[-1]
        rad = self.gamma(n) * (a.size @ b.size) + n * self.eta
        if b.rad.any():
            rad = rad + np.abs(a.mid) @ b.rad
        if a.rad.any():
            rad = rad + a.rad @ b.size
        return Ball(mid, rad)
