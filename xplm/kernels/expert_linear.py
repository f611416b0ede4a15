"""A linear map of each expert's rows by the expert's own weight.

    y_m = x_m @ weight_e^T + bias_e        for every row m of expert e

Rows of an expert stand together: the first `counts[0]` are those of expert 0, the next `counts[1]` those of expert 1.
One product for each expert that has rows; the others' weights are not read.

Gradient. That of a linear map for each expert, over its rows:

    dx_m      = dy_m @ weight_e
    dweight_e = sum of dy_m x_m^T
    dbias_e   = sum of dy_m

An expert without rows has a gradient of 0.

Source: Gale et al., "MegaBlocks", arXiv:2211.15841, section 3, where the same is one sparse product.

Numerics. As `xplm.kernels.linear`'s.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from xplm.kernels.linear import LinearSaved, linear_bwd, linear_fwd
from xplm.namespace import array_namespace
from xplm.precision import wide_dtype
from xplm.typing import Array


class ExpertLinearSaved(NamedTuple):
    x: Array  # (M, C)
    weight: Array  # (E, N, C)
    bias: Array | None  # (E, N)
    counts: Sequence[int]  # rows of each expert


def expert_linear_fwd(
    x: Array, weight: Array, bias: Array | None = None, *, counts: Sequence[int]
) -> tuple[Array, ExpertLinearSaved]:
    """y = x @ weight_e^T + bias_e.   x (M, C); weight (E, N, C); bias (E, N)  ->  y (M, N) x.dtype"""
    xp = array_namespace(x)

    parts = [
        linear_fwd(x[own, :], weight[e, ...], None if bias is None else bias[e, ...])[0]
        for e, own in rows_of_experts(counts)
    ]
    return xp.concat(parts, axis=0), ExpertLinearSaved(x, weight, bias, counts)


def expert_linear_bwd(
    dy: Array, saved: ExpertLinearSaved, *, is_frozen: bool = False
) -> tuple[Array, Array | None, Array | None]:
    """dx (M, C) in x's dtype; dweight (E, N, C) and dbias (E, N) wide, from dy (M, N).

    Where weight and bias are frozen, dx alone is computed.
    """
    x, weight, bias, counts = saved
    xp = array_namespace(dy)
    found = {
        e: linear_bwd(
            dy[own, :],
            LinearSaved(x[own, :], weight[e, ...], None if bias is None else bias[e, ...]),
            is_frozen=is_frozen,
        )
        for e, own in rows_of_experts(counts)
    }
    dx = xp.concat([dx for dx, _, _ in found.values()], axis=0)
    if is_frozen:
        return dx, None, None

    wide = wide_dtype(dy, xp)
    nothing = xp.zeros_like(weight[0, ...], dtype=wide)
    experts = range(len(counts))
    dweight = xp.stack([found[e][1] if e in found else nothing for e in experts])
    if bias is None:
        return dx, dweight, None
    nothing = xp.zeros_like(bias[0, ...], dtype=wide)
    return dx, dweight, xp.stack([found[e][2] if e in found else nothing for e in experts])


def rows_of_experts(counts: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """Each expert that has rows, and which they are."""
    begin = 0
    for e, count in enumerate(counts):
        if count:
            yield e, slice(begin, begin + count)
            begin += count
