"""The language-model head and its loss in one: linear, then cross-entropy, some rows at a time.

    loss = cross_entropy(x @ weight^T + bias, targets)

For a vocabulary of 49,152 the logits of one batch outweigh the rest of the model's activations together. Here just
those of one chunk of rows are held; the backward pass makes them again.

Gradient. Chunk by chunk, cross_entropy's gradient of the logits goes into linear's:

    dx      = dlogits @ weight
    dweight = dlogits^T @ x              summed over the chunks
    dbias   = sum of dlogits over the rows, those of all chunks

Numerics. The chunk's logits stay in the dtype `island` from the product to the loss.
"""

from typing import NamedTuple

from xplm.kernels.cross_entropy import CrossEntropySaved, cross_entropy_bwd, cross_entropy_fwd
from xplm.kernels.linear import LinearSaved, linear_bwd, linear_fwd
from xplm.namespace import array_namespace
from xplm.precision import cast, wide_dtype
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
    island: DType | None = None,
) -> tuple[Array, LinearCrossEntropySaved]:
    """Loss of logits x @ weight^T + bias.   x (N, C); weight (V, C); targets (N,); bias (V,)  ->  loss (N,) island"""
    xp = array_namespace(x)
    island = island or wide_dtype(x, xp)

    losses, lses = [], []
    for rows in _chunks(x, weight):
        logits, _ = linear_fwd(cast(x[rows, :], island), weight, bias)
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
        x, weight, targets, bias, lse, ignore_index, label_smoothing, z_loss, island
    )


def linear_cross_entropy_bwd(
    dloss: Array, saved: LinearCrossEntropySaved, *, is_frozen: bool = False
) -> tuple[Array, Array | None, None, Array | None]:
    """dx (N, C) in x's dtype; dweight (V, C) and dbias (V,) wide, from dloss (N,); no gradient of the targets.

    Where weight and bias are frozen, dx alone is computed.
    """
    x, weight, targets, bias, lse, ignore_index, label_smoothing, z_loss, island = saved
    xp = array_namespace(dloss)

    parts = []
    dweight = dbias = None
    for rows in _chunks(x, weight):
        x_rows = cast(x[rows, :], island)
        logits, _ = linear_fwd(x_rows, weight, bias)

        # loss = cross_entropy(logits)
        loss_saved = CrossEntropySaved(
            logits, targets[rows], lse[rows], ignore_index, label_smoothing, z_loss
        )
        dlogits, _ = cross_entropy_bwd(dloss[rows], loss_saved)

        # logits = x @ weight^T + bias
        head = LinearSaved(x_rows, weight, bias)
        dx_rows, dweight_part, dbias_part = linear_bwd(dlogits, head, is_frozen=is_frozen)
        parts.append(dx_rows)
        dweight = dweight_part if dweight is None else dweight + dweight_part
        dbias = dbias_part if dbias is None else dbias + dbias_part
    return cast(xp.concat(parts, axis=0), x.dtype), dweight, None, dbias


def _chunks(x: Array, weight: Array) -> list[slice]:
    """Rows of x whose logits are made together."""
    n_rows = max(1, LOGITS_PER_CHUNK // weight.shape[0])
    n = x.shape[0]
    return [slice(begin, min(begin + n_rows, n)) for begin in range(0, n, n_rows)]
