"""The language-model head and its loss in one: linear, then cross-entropy, some rows at a time.

    z    = s (x @ weight^T + bias)           s is `logit_scale`
    z    = c tanh(z / c)                     c is `logit_cap`; None: as they are
    loss = cross_entropy(z, targets)

For a vocabulary of 49,152 the logits of one batch outweigh the rest of the model's activations together. Here just
those of one chunk of rows are held; the backward pass makes them again.

Gradient. Chunk by chunk, cross_entropy's gradient of the logits goes back through cap and scale into linear's. With
t = tanh(z / c), which is the capped logit over c,

    d (c t) / dz = 1 - t^2
    dlogits = s (1 - t^2) dz
    dx      = dlogits @ weight
    dweight = dlogits^T @ x              summed over the chunks
    dbias   = sum of dlogits over the rows, those of all chunks

Numerics. The chunk's logits stay in the dtype `island` from the product to the loss; cap and scale are computed wide
and rounded to it once.
"""

from typing import NamedTuple

from xplm.kernels.cross_entropy import CrossEntropySaved, cross_entropy_bwd, cross_entropy_fwd
from xplm.kernels.linear import LinearSaved, linear_bwd, linear_fwd
from xplm.namespace import array_namespace
from xplm.precision import cast, scaled, wide_dtype
from xplm.typing import Array, DType

LOGITS_PER_CHUNK = 2**23
"""Numbers in a chunk's logits: 32 MiB in float32."""


class LinearCrossEntropySaved(NamedTuple):
    x: Array  # (N, C)
    weight: Array  # (V, C)
    targets: Array  # (N,), integer
    bias: Array | None  # (V,)
    lse: Array  # (N,), island
    ignore_index: int
    label_smoothing: float
    z_loss: float
    logit_scale: float
    logit_cap: float | None
    island: DType


def linear_cross_entropy_fwd(
    x: Array,
    weight: Array,
    targets: Array,
    bias: Array | None = None,
    *,
    ignore_index: int,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    logit_scale: float = 1.0,
    logit_cap: float | None = None,
    island: DType | None = None,
) -> tuple[Array, LinearCrossEntropySaved]:
    """Loss of logits x @ weight^T + bias.   x (N, C); weight (V, C); targets (N,); bias (V,)  ->  loss (N,) island"""
    xp = array_namespace(x)
    island = island or wide_dtype(x, xp)

    losses, lses = [], []
    for rows in _chunks(x, weight):
        logits, _ = linear_fwd(cast(x[rows, :], island), weight, bias)
        logits = scale_and_cap(logits, logit_scale, logit_cap)
        loss, saved = cross_entropy_fwd(
            logits,
            targets[rows],
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
            island=island,
        )
        losses.append(loss)
        lses.append(saved.lse)
    lse = xp.concat(lses, axis=0)
    return xp.concat(losses, axis=0), LinearCrossEntropySaved(
        *(x, weight, targets, bias, lse),
        *(ignore_index, label_smoothing, z_loss, logit_scale, logit_cap, island),
    )


def linear_cross_entropy_bwd(
    dloss: Array, saved: LinearCrossEntropySaved, *, is_frozen: bool = False
) -> tuple[Array, Array | None, None, Array | None]:
    """dx (N, C) in x's dtype; dweight (V, C) and dbias (V,) wide, from dloss (N,); no gradient of the targets.

    Where weight and bias are frozen, dx alone is computed.
    """
    x, weight, targets, bias, lse, ignore_index, label_smoothing, z_loss, scale, cap, island = saved
    xp = array_namespace(dloss)

    parts = []
    dweight = dbias = None
    for rows in _chunks(x, weight):
        x_rows = cast(x[rows, :], island)
        logits, _ = linear_fwd(x_rows, weight, bias)
        logits = scale_and_cap(logits, scale, cap)

        # loss = cross_entropy(logits)
        loss_saved = CrossEntropySaved(
            logits, targets[rows], lse[rows], ignore_index, label_smoothing, z_loss
        )
        dlogits, _ = cross_entropy_bwd(dloss[rows], loss_saved)

        # logits = c tanh(s logits / c)
        dlogits = _scale_and_cap_back(dlogits, logits, scale, cap)

        # logits = x @ weight^T + bias
        head = LinearSaved(x_rows, weight, bias)
        dx_rows, dweight_part, dbias_part = linear_bwd(dlogits, head, is_frozen=is_frozen)
        parts.append(dx_rows)
        dweight = dweight_part if dweight is None else dweight + dweight_part
        dbias = dbias_part if dbias is None else dbias + dbias_part
    return cast(xp.concat(parts, axis=0), x.dtype), dweight, None, dbias


def scale_and_cap(logits: Array, scale: float, cap: float | None) -> Array:
    """c tanh(s logits / c), or s logits without a cap, in the logits' dtype.   logits (..., V)  ->  the same"""
    if cap is None:
        return scaled(logits, scale)
    xp = array_namespace(logits)
    z = cast(logits, wide_dtype(logits, xp)) * scale
    return cast(xp.tanh(z / cap) * cap, logits.dtype)


def _scale_and_cap_back(dz: Array, capped: Array, scale: float, cap: float | None) -> Array:
    """dlogits (N, V), from dz of `scale_and_cap`'s result (N, V)."""
    if cap is None:
        return scaled(dz, scale)
    wide = wide_dtype(dz, array_namespace(dz))
    t = cast(capped, wide) / cap
    return cast(cast(dz, wide) * (1.0 - t * t) * scale, dz.dtype)


def _chunks(x: Array, weight: Array) -> list[slice]:
    """Rows of x whose logits are made together."""
    n_rows = max(1, LOGITS_PER_CHUNK // weight.shape[0])
    n = x.shape[0]
    return [slice(begin, min(begin + n_rows, n)) for begin in range(0, n, n_rows)]
