"""Softmax over the last axis, with an optional mask.

    y_j = exp(x_j - m) / sum_i exp(x_i - m)        m = max_i x_i
    lse = m + log(sum_i exp(x_i - m))

Sums and the maximum go over visible entries only; a hidden entry gets exactly 0. A row with nothing visible gives a
row of zeros and lse = -inf, so that padding contributes nothing anywhere.

Gradient. With d y_i / d x_j = y_i (delta_ij - y_j),

    dx_j = y_j * (dy_j - sum_i dy_i y_i)

A hidden entry has y = 0, so its dx is 0; so is every dx of a row with nothing visible.

Source: Blanchard, Higham and Higham, "Accurately computing the log-sum-exp and softmax functions", IMA J. Numer. Anal.
41 (2021), algorithm 3.2.

Numerics. Runs in the dtype `island`, but for the last step to lse, which is in float32 at least: who makes y again
as exp(x - lse) turns an absolute error of lse into a relative one of the whole row. In bfloat16 a lse between 8 and 16
would be off by up to 0.03, and so would be the row by 3 %, when y itself was rounded by 0.4 %. Hidden scores are set to
their row's lowest, which is never above a visible one, and not to -inf: inf - inf is NaN, and maxima over -inf are
wrong in some releases of some libraries.
"""

from typing import NamedTuple

from xplm.namespace import array_namespace
from xplm.precision import cast, wide_dtype
from xplm.typing import Array, DType


class SoftmaxSaved(NamedTuple):
    y: Array  # (..., S), island
    lse: Array  # (..., 1), float32 or wider


def softmax_fwd(
    x: Array, visible: Array | None = None, *, island: DType | None = None
) -> tuple[Array, SoftmaxSaved]:
    """y = softmax(x).   x (..., S); visible bool, broadcastable to x  ->  y (..., S) x.dtype"""
    xp = array_namespace(x)
    island = island or wide_dtype(x, xp)

    scores = cast(x, island)
    if visible is not None:
        lowest = xp.min(scores, axis=-1, keepdims=True)
        scores = xp.where(visible, scores, lowest)

    highest = xp.max(scores, axis=-1, keepdims=True)
    e = xp.exp(scores - highest)
    if visible is None:
        total = xp.sum(e, axis=-1, keepdims=True, dtype=island)
        y = e / total
        lse = _lse(highest, total)
    else:
        e = xp.where(visible, e, xp.zeros_like(e))
        total = xp.sum(e, axis=-1, keepdims=True, dtype=island)
        some = total > 0
        divisor = xp.where(some, total, xp.ones_like(total))
        y = e / divisor
        lse = _lse(highest, divisor)
        lse = xp.where(some, lse, xp.full_like(lse, -float("inf")))

    return cast(y, x.dtype), SoftmaxSaved(y, lse)


def softmax_bwd(dy: Array, saved: SoftmaxSaved) -> tuple[Array, None]:
    """dx (..., S) in dy's dtype, from dy (..., S); no gradient of the mask."""
    xp = array_namespace(dy)
    wide = wide_dtype(saved.y, xp)
    y, dyw = cast(saved.y, wide), cast(dy, wide)

    dx = y * (dyw - xp.sum(dyw * y, axis=-1, keepdims=True))
    return cast(dx, dy.dtype), None


def _lse(highest: Array, total: Array) -> Array:
    """highest + log(total), of numbers of the island."""
    xp = array_namespace(total)
    sums = wide_dtype(total, xp)
    return cast(highest, sums) + xp.log(cast(total, sums))
