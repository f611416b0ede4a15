"""Rotary position embedding, in the half-split layout.

Feature i of the first half of a head and feature i of the second form a pair; at position p it turns by the angle
p * inv_freq[i]:

    y1 = x1 cos - x2 sin
    y2 = x2 cos + x1 sin
    y3 = x3

The tables say how many features are rotated: the two halves are those of the first R, and x3 is the rest of the head,
which most models do not have.

The product of a query at p and a key at s then depends on p - s alone.

Source: Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", arXiv:2104.09864, eq. 34, with
pairs (i, i + R/2) in place of (2i, 2i + 1) as Llama checkpoints are trained. `xplm.rope_scaling` makes inv_freq.

Gradient. A rotation's transpose is the rotation back, so dx is dy turned by minus the angle:

    dx1 = dy1 cos + dy2 sin
    dx2 = dy2 cos - dy1 sin
    dx3 = dy3

A scale on cos and sin, as YaRN has, multiplies dx as it multiplied y. The tables have no gradient.

Numerics. Angles grow with the position and lose their low bits first: angles, tables and rotation run in the island
dtype. The rotated row is rounded once.
"""

from typing import NamedTuple

import numpy as np

from xplm.namespace import array_namespace
from xplm.precision import cast, cast_host
from xplm.typing import Array, DType


class RopeSaved(NamedTuple):
    cos: Array  # (B, 1, T, R/2)
    sin: Array  # (B, 1, T, R/2)


def rope_tables(
    positions: np.ndarray, inv_freq: np.ndarray, *, scale: float, dtype: DType
) -> tuple[np.ndarray, np.ndarray]:
    """cos, sin (B, 1, T, R/2) of positions (B, T) * inv_freq (R/2,), both times `scale`, on the host in `dtype`.

    `dtype` is NumPy's, or a Format, to which float32 numbers are rounded.
    """
    angles = cast_host(positions, dtype)[:, None, :, None] * cast_host(inv_freq, dtype)
    angles = cast_host(angles, dtype)
    return cast_host(np.cos(angles) * scale, dtype), cast_host(np.sin(angles) * scale, dtype)


def rope_fwd(x: Array, cos: Array, sin: Array) -> tuple[Array, RopeSaved]:
    """Turn each pair by its angle.   x (B, H, T, D); cos, sin (B, 1, T, R/2)  ->  y (B, H, T, D) x.dtype"""
    xp = array_namespace(x)
    half = cos.shape[-1]

    xw = cast(x, cos.dtype)
    x1, x2, x3 = xw[..., :half], xw[..., half : 2 * half], xw[..., 2 * half :]
    y = xp.concat([x1 * cos - x2 * sin, x2 * cos + x1 * sin, x3], axis=-1)
    return cast(y, x.dtype), RopeSaved(cos, sin)


def rope_bwd(dy: Array, saved: RopeSaved) -> tuple[Array, None, None]:
    """dx (B, H, T, D) in dy's dtype, from dy (B, H, T, D); no gradient of cos and sin."""
    cos, sin = saved
    xp = array_namespace(dy)
    half = cos.shape[-1]
    dyw = cast(dy, cos.dtype)
    dy1, dy2, dy3 = dyw[..., :half], dyw[..., half : 2 * half], dyw[..., 2 * half :]

    # y1 = x1 cos - x2 sin,  y2 = x2 cos + x1 sin,  y3 = x3
    dx = xp.concat([dy1 * cos + dy2 * sin, dy2 * cos - dy1 * sin, dy3], axis=-1)
    return cast(dx, dy.dtype), None, None
