"""A residual addition, and the norm of its sum: where one half of a block ends and the next begins.

    y = x + branch
    n = rms_norm(y)

Both are read on: n by the next branch, and y past it.

Gradient. y gets its own dy and what comes back through n. An addition hands that to both of its terms as it is:

    dx = dbranch = dy + rms_norm_bwd(dn)

A norm of x that x also goes past, with nothing added before, is the same with y = x: the first norm of a block.
"""

from xplm.kernels.rms_norm import RMSNormSaved, rms_norm_bwd, rms_norm_fwd
from xplm.precision import cast
from xplm.typing import Array, DType


def add_rms_norm_fwd(
    x: Array, branch: Array, weight: Array, *, eps: float, island: DType | None = None
) -> tuple[Array, Array, RMSNormSaved]:
    """y = x + branch, n = rms_norm(y).   x, branch (..., C) any float; weight (C,)  ->  y, n (..., C) x.dtype"""
    y = cast(x + branch, x.dtype)
    n, saved = rms_norm_fwd(y, weight, eps=eps, island=island)
    return y, n, saved


def add_rms_norm_bwd(dy: Array, dn: Array, saved: RMSNormSaved) -> tuple[Array, Array]:
    """dx (..., C) in x's dtype, which is dbranch too; dweight (C,) wide, from dy and dn (..., C).

    `saved` is `rms_norm_fwd`'s of y. x and branch are of one shape.
    """
    dx, dweight = rms_norm_bwd(dn, saved)
    return cast(dy + dx, dx.dtype), dweight
