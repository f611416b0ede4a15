"""Softmax in balls, as softmax, attention and the losses use it.

The maximum m that is subtracted cancels: exp(s - m') / sum exp(s - m') is the same for every m'. What a kernel's own m'
is off by therefore costs nothing but the rounding of s - m', and m counts as exact here.
"""

import numpy as np

from xplm.numerics.parity.bounds import Arithmetic, Ball, exact, where


def softmax(
    w: Arithmetic, scores: Ball, visible: np.ndarray | None, last: Arithmetic | None = None
) -> tuple[Ball, Ball]:
    """y (..., S) and lse (..., 1) of scores (..., S); rows of nothing give 0 and -inf. lse's last step is in `last`."""
    scores = w.stored(scores)
    seen = np.broadcast_to(True if visible is None else visible, scores.mid.shape)
    some = np.any(seen, axis=-1, keepdims=True)
    highest = np.max(np.where(seen, scores.mid, -np.inf), axis=-1, keepdims=True)
    highest = exact(np.where(some, highest, 0.0))

    e = where(seen, w.exp(where(seen, w.minus(scores, highest), 0.0)), 0.0)
    total = w.sum(e, -1, keepdims=True)
    total = Ball(np.where(some, total.mid, 1.0), np.where(some, total.rad, 0.0))
    last = last or w
    lse = where(some, last.plus(highest, last.log(total)), -np.inf)
    return where(seen, w.over(e, total), 0.0), lse


def probs_from_lse(w: Arithmetic, scores: Ball, lse: Ball, visible: np.ndarray) -> Ball:
    """exp(scores - lse), 0 where hidden: how a backward pass makes the probabilities again."""
    finite = where(np.isfinite(lse.mid), lse, 0.0)
    seen = visible & np.isfinite(lse.mid)
    return where(seen, w.exp(where(seen, w.minus(scores, finite), 0.0)), 0.0)
