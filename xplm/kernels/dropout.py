"""Dropout: leave some numbers out, and make up for them.

    y = x * keep / (1 - rate)

`keep` is drawn on the host by a counter-based generator (xplm.train.dropout), so that it is the same on every
backend and in a resumed run; it comes in as an argument, and the kernel stays a function of its inputs.

Source: Srivastava et al., "Dropout", JMLR 15 (2014), section 4, with the scale at training time.

Gradient. y is linear in x:

    dx = dy * keep / (1 - rate)
"""

from typing import NamedTuple

from xplm.namespace import array_namespace
from xplm.precision import cast, wide_dtype
from xplm.typing import Array


class DropoutSaved(NamedTuple):
    keep: Array  # bool, shape of x
    rate: float  # share left out


def dropout_fwd(x: Array, keep: Array, *, rate: float) -> tuple[Array, DropoutSaved]:
    """y = x * keep / (1 - rate).   x (...) any float; keep (...) bool  ->  y (...) x.dtype"""
    return _scale_kept(x, keep, rate), DropoutSaved(keep, rate)


def dropout_bwd(dy: Array, saved: DropoutSaved) -> tuple[Array, None]:
    """dx (...) in dy's dtype, from dy (...); no gradient of the mask."""
    return _scale_kept(dy, saved.keep, saved.rate), None


def _scale_kept(x: Array, keep: Array, rate: float) -> Array:
    xp = array_namespace(x)
    xw = cast(x, wide_dtype(x, xp)) * (1.0 / (1.0 - rate))
    return cast(xp.where(keep, xw, xp.zeros_like(xw)), x.dtype)
