"""Cross-entropy of logits against target ids, one loss a row.

    lse    = log(sum_j exp(x_j))
    loss   = lse - (1 - a) x_t - a mean(x) + z lse^2

x_t is the target's logit, a the label smoothing (the target distribution is 1 - a on the target plus a / V on every
id) and z the weight of the z-loss, which keeps lse near 0. A row whose target is `ignore_index` has loss 0. The mean
over the other rows is the caller's to take: only the caller knows how many there are in the whole batch.

Sources: Szegedy et al., "Rethinking the Inception Architecture", arXiv:1512.00567, section 7 (label smoothing);
Chowdhery et al., "PaLM", arXiv:2204.02311, section 5 (z-loss).

Gradient. With p = softmax(x) and d lse / d x_j = p_j,

    dx_j = dloss * (p_j (1 + 2 z lse) - (1 - a) [j = t] - a / V)

Numerics. Runs in the dtype `island`. p is rebuilt from x and lse: it is as large as x.
"""

from typing import NamedTuple

from array_api_compat import device

from xplm.namespace import array_namespace
from xplm.precision import cast, wide_dtype
from xplm.typing import Array, DType


class CrossEntropySaved(NamedTuple):
    x: Array  # (N, V)
    targets: Array  # (N,), integer
    lse: Array  # (N,), island
    ignore_index: int
    label_smoothing: float
    z_loss: float


def cross_entropy_fwd(
    x: Array,
    targets: Array,
    *,
    ignore_index: int,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    island: DType | None = None,
) -> tuple[Array, CrossEntropySaved]:
    """loss = lse(x) - x[target], smoothed.   x (N, V); targets (N,) integer  ->  loss (N,) island"""
    xp = array_namespace(x)
    island = island or wide_dtype(x, xp)
    xw = cast(x, island)
    counted = targets != ignore_index
    safe = xp.where(counted, targets, xp.zeros_like(targets))

    highest = xp.max(xw, axis=-1, keepdims=True)
    lse = highest[:, 0] + xp.log(xp.sum(xp.exp(xw - highest), axis=-1))
    target_logit = xp.take_along_axis(xw, safe[:, None], axis=-1)[:, 0]

    loss = lse - (1.0 - label_smoothing) * target_logit
    if label_smoothing:
        loss = loss - label_smoothing * xp.mean(xw, axis=-1)
    if z_loss:
        loss = loss + z_loss * lse * lse
    loss = cast(xp.where(counted, loss, xp.zeros_like(loss)), island)
    return loss, CrossEntropySaved(x, targets, lse, ignore_index, label_smoothing, z_loss)


def cross_entropy_bwd(dloss: Array, saved: CrossEntropySaved) -> tuple[Array, None]:
    """dx (N, V) in x's dtype, from dloss (N,); no gradient of the targets."""
    x, targets, lse, ignore_index, label_smoothing, z_loss = saved
    xp = array_namespace(dloss)
    wide = wide_dtype(dloss, xp)
    V = x.shape[-1]
    lse = cast(lse, wide)[:, None]
    counted = (targets != ignore_index)[:, None]

    # p = exp(x - lse)
    p = xp.exp(cast(x, wide) - lse)
    if z_loss:
        p = p * (1.0 + 2.0 * z_loss * lse)

    # loss = lse - (1 - a) x_t - a mean(x) + z lse^2
    ids = xp.arange(V, dtype=targets.dtype, device=device(x))
    dx = xp.where(ids[None, :] == targets[:, None], p - (1.0 - label_smoothing), p)
    if label_smoothing:
        dx = dx - label_smoothing / V
    dx = xp.where(counted, dx * cast(dloss, wide)[:, None], xp.zeros_like(dx))
    return cast(dx, x.dtype), None
