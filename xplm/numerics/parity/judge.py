"""The verdict on one tensor: exact, rounding, or a bug.

The last rounding of a result is known: it is to nearest, in the dtype that the result has. So it is undone. The numbers
that round to a given y are those between the midpoints to its two neighbours,

    [(y + pred(y)) / 2, (y + succ(y)) / 2]

and y is right if that interval meets the op's ball, which is all that may be there before the last rounding. In
bfloat16 the ball of a product accumulated in float32 is thousands of times narrower than one spacing, so nearly every
number is predicted to the last bit.

    exact      every number is the reference's, correctly rounded
    rounding   every number could be; share = how much of its bound the worst one uses, at most 1
    BUG        one could not be, or the shape or the dtype is another, or NaN stands where a number should
"""

from typing import NamedTuple

import ml_dtypes
import numpy as np

from xplm.numerics.parity.expected import Expected

EXACT, ROUNDING, BUG = "exact", "rounding", "BUG"


class Verdict(NamedTuple):
    name: str  # of the tensor
    kind: str  # EXACT, ROUNDING or BUG
    share: float  # of the bound, of the entry that uses most; above 1 in a bug
    error: float  # largest difference from the reference, over the reference's largest number
    shape: tuple[int, ...]
    dtype: str  # of the test's
    reason: str = ""  # of a bug, in words


@np.errstate(all="ignore")
def judge(
    name: str, test: np.ndarray, expected: Expected, reference: np.ndarray | None = None
) -> Verdict:
    """One tensor against its definition.

    Args:
        name: what to call it.
        test: the result, on the host, in the dtype that it was returned in.
        expected: the ball it must have been rounded from, and the dtype it must have.
        reference: the same tensor in float64, from the reference's kernel; None: the ball's centre. It is where errors
            are measured from, not what decides.
    """
    ball = expected.ball
    if test.shape != ball.mid.shape or test.dtype != expected.dtype:
        return Verdict(
            name, BUG, np.inf, np.inf, test.shape, str(test.dtype),
            f"is {test.dtype} {test.shape}; must be {expected.dtype} {ball.mid.shape}",
        )  # fmt: skip
    centre = ball.mid if reference is None else np.asarray(reference, np.float64)
    low, high = ball.mid - ball.rad, ball.mid + ball.rad
    is_open = np.isnan(low) | np.isnan(high)  # the format cannot hold what lies on the way
    is_infinite = np.isinf(ball.mid) & (ball.rad == 0.0)

    nearest_low, nearest_high = roundable_to(test)
    widest = float(ml_dtypes.finfo(test.dtype).max)
    overflows = ((test == np.inf) & (high >= widest)) | ((test == -np.inf) & (low <= -widest))
    fits = (nearest_low <= high) & (nearest_high >= low)
    fits = np.where(is_infinite, test.astype(np.float64) == ball.mid, fits)
    fits = fits | is_open | overflows

    centre = np.clip(centre, low, high)
    missing = np.maximum(np.maximum(centre - nearest_high, nearest_low - centre), 0.0)
    allowed = np.where(nearest_low > centre, high - centre, centre - low)
    used = np.where(missing > 0.0, missing / allowed, 0.0)
    used = np.where(is_infinite, np.inf, used)
    used = np.where(fits, np.minimum(used, 1.0), used)
    used = np.where(fits & (is_open | is_infinite | overflows), 0.0, used)
    share = float(np.max(np.where(np.isnan(used), np.inf, used), initial=0.0))
    error = relative_error(test, ball.mid if reference is None else reference)
    if not fits.all():
        n_wrong = int(np.sum(~fits))
        at = np.unravel_index(
            int(np.argmax(np.where(fits, -1.0, np.nan_to_num(used, nan=np.inf)))), fits.shape
        )
        reason = (
            f"{n_wrong} of {fits.size} numbers, at worst {float(test[at]):.6g} for "
            f"{float(ball.mid[at]):.6g} +- {float(ball.rad[at]):.1e}, {used[at]:.3g} times the bound"
        )
        return Verdict(name, BUG, share, error, test.shape, str(test.dtype), reason)
    is_exact = np.where(np.isinf(test), centre.astype(test.dtype) == test, missing == 0.0)
    kind = EXACT if is_exact.all() else ROUNDING  # where a ball is open, no share of it is used
    return Verdict(name, kind, share, error, test.shape, str(test.dtype))


@np.errstate(all="ignore")
def roundable_to(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ends, in float64, of the interval that rounds to each number; from the largest finite one up for infinity."""
    value = y.astype(np.float64)
    widest = float(ml_dtypes.finfo(y.dtype).max)
    inf = np.asarray(np.inf, y.dtype)
    below = np.nextafter(y, -inf).astype(np.float64)
    above = np.nextafter(y, inf).astype(np.float64)
    low = np.where(value == np.inf, widest, value + (below - value) / 2.0)
    high = np.where(value == -np.inf, -widest, value + (above - value) / 2.0)
    return low, high


def half_spacing(y: np.ndarray) -> np.ndarray:
    """The most that rounding to each number of an array, in its own dtype, can have changed it by."""
    low, high = roundable_to(y)
    finite = np.isfinite(low) & np.isfinite(high)
    return np.where(finite, (high - low) / 2.0, 0.0)


def relative_error(test: np.ndarray, reference: np.ndarray) -> float:
    """max |test - reference| / max |reference| over what is finite in both; the difference itself where that is 0."""
    a, b = test.astype(np.float64), np.asarray(reference, np.float64)
    if a.shape != b.shape:
        return float("inf")
    finite = np.isfinite(a) & np.isfinite(b)
    difference = float(np.max(np.abs(a - b), where=finite, initial=0.0))
    size = float(np.max(np.abs(b), where=finite, initial=0.0))
    return difference / size if size > 0.0 else difference


def bug(name: str, test: np.ndarray, reason: str) -> Verdict:
    """A verdict of what no bound is needed for."""
    return Verdict(name, BUG, float("inf"), float("inf"), test.shape, str(test.dtype), reason)


def worst(verdicts: list[Verdict]) -> Verdict:
    """The one with the largest share of its bound, bugs first."""
    return max(verdicts, key=lambda v: (v.kind == BUG, v.kind == ROUNDING, v.share))
