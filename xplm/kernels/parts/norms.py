"""The norms of a block's halves in the decode fusions, and how a half ends.

    rms          x / rms(x) * weight, the row rounded before it is scaled: Llama's
    rms, once    the same, rounded once: Gemma's
    layer        (x - mean(x)) / std(x) * weight + bias, rounded once

A norm is one array: its weight, which holds an offset already, or of a layer norm weight and bias, stacked. The weight
is (W,), or (H, W) with one row for each head. All norms of a half are of one kind and have one eps.
"""

from xplm.kernels.layer_norm import layer_norm_fwd
from xplm.kernels.rms_norm import rms_norm_fwd
from xplm.precision import cast, scaled
from xplm.typing import Array, DType

RMS, RMS_ONCE, LAYER = "rms", "rms, once", "layer"
"""Kinds of norms. The array of one that rounds once is in the island's dtype."""


def apply_norm(
    x: Array, norm: Array | None, *, kind: str, eps: float, island: DType | None
) -> Array:
    """The norm of x, x itself without one.   x (..., W) or (..., H, W)  ->  y of x's shape and dtype"""
    if norm is None:
        return x
    if kind == LAYER:
        return layer_norm_fwd(x, norm[0, ...], norm[1, ...], eps=eps, island=island)[0]
    rows = cast(x, norm.dtype) if kind == RMS_ONCE else x
    return cast(rms_norm_fwd(rows, norm, eps=eps, island=island)[0], x.dtype)


def add_branch(
    residual: Array,
    branch: Array,
    norm: Array | None,
    *,
    scale: float,
    kind: str,
    eps: float,
    island: DType | None,
) -> Array:
    """y = residual + scale norm(branch).   residual, branch (B, T, C); norm (C,)  ->  y (B, T, C)"""
    return residual + scaled(apply_norm(branch, norm, kind=kind, eps=eps, island=island), scale)
