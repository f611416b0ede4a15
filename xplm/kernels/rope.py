"""Rotary position embedding.

The first R features of a head form R/2 pairs (x1, x2); at position p pair i turns by the angle p * inv_freq[i]:

    y1 = x1 cos - x2 sin
    y2 = x2 cos + x1 sin
    y3 = x3

    halves        x1 is the first half of the R features, x2 the second: pair i is (i, i + R/2)
    neighbours    x1 is the even ones, x2 the odd ones: pair i is (2i, 2i + 1)

The tables say how large R is; x3 is the rest of the head, which most models do not have.

The product of a query at p and a key at s then depends on p - s alone.

Source: Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", arXiv:2104.09864, eq. 34, whose
pairs are neighbours; Llama's checkpoints are trained with halves. `xplm.rope_scaling` makes inv_freq.

Gradient. A rotation's transpose is the rotation back, so dx is dy turned by minus the angle:

    dx1 = dy1 cos + dy2 sin
    dx2 = dy2 cos - dy1 sin
    dx3 = dy3

put back where x1, x2 and x3 were taken from. A scale on cos and sin, as YaRN has, multiplies dx as it multiplied y. The
tables have no gradient.

Numerics. Angles grow with the position and lose their low bits first: angles, tables and rotation run in the island
dtype. The rotated row is rounded once.
"""

from typing import NamedTuple

import numpy as np

from xplm.namespace import array_namespace
from xplm.precision import cast, cast_host
from xplm.typing import Array, DType

HALVES, NEIGHBOURS = "halves", "neighbours"


class RopeSaved(NamedTuple):
    cos: Array  # (B, 1, T, R/2)
    sin: Array  # (B, 1, T, R/2)
    pairs: str  # HALVES or NEIGHBOURS


def rope_tables(
    positions: np.ndarray, inv_freq: np.ndarray, *, scale: float, dtype: DType
) -> tuple[np.ndarray, np.ndarray]:
    """cos, sin (B, 1, T, R/2) of positions (B, T) * inv_freq (R/2,), both times `scale`, on the host in `dtype`.

    `dtype` is NumPy's, or a Format, to which float32 numbers are rounded.
    """
    angles = cast_host(positions, dtype)[:, None, :, None] * cast_host(inv_freq, dtype)
    angles = cast_host(angles, dtype)
    return cast_host(np.cos(angles) * scale, dtype), cast_host(np.sin(angles) * scale, dtype)


def rope_fwd(x: Array, cos: Array, sin: Array, *, pairs: str = HALVES) -> tuple[Array, RopeSaved]:
    """Turn each pair by its angle.   x (B, H, T, D); cos, sin (B, 1, T, R/2)  ->  y (B, H, T, D) x.dtype"""
    xw = cast(x, cos.dtype)
    x1, x2, x3 = _split(xw, cos.shape[-1], pairs)
    y = _join(x1 * cos - x2 * sin, x2 * cos + x1 * sin, x3, pairs)
    return cast(y, x.dtype), RopeSaved(cos, sin, pairs)


def rope_bwd(dy: Array, saved: RopeSaved) -> tuple[Array, None, None]:
    """dx (B, H, T, D) in dy's dtype, from dy (B, H, T, D); no gradient of cos and sin."""
    cos, sin, pairs = saved
    dyw = cast(dy, cos.dtype)
    dy1, dy2, dy3 = _split(dyw, cos.shape[-1], pairs)

    # y1 = x1 cos - x2 sin,  y2 = x2 cos + x1 sin,  y3 = x3
    dx = _join(dy1 * cos + dy2 * sin, dy2 * cos - dy1 * sin, dy3, pairs)
    return cast(dx, dy.dtype), None, None


def _split(x: Array, half: int, pairs: str) -> tuple[Array, Array, Array]:
    """x (..., D) as both members of each pair (..., R/2), and the features that are not rotated (..., D - R)."""
    if pairs == NEIGHBOURS:
        return x[..., 0 : 2 * half : 2], x[..., 1 : 2 * half : 2], x[..., 2 * half :]
    return x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]


def _join(x1: Array, x2: Array, x3: Array, pairs: str) -> Array:
    """The inverse of `_split`."""
    xp = array_namespace(x1)
    if pairs == HALVES:
        return xp.concat([x1, x2, x3], axis=-1)
    both = xp.concat([x1[..., None], x2[..., None]], axis=-1)  # (..., R/2, 2)
    rotated = xp.reshape(both, (*x1.shape[:-1], 2 * x1.shape[-1]))
    return xp.concat([rotated, x3], axis=-1)
