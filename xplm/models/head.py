"""The last stage of a training pass: the final norm, the head and its loss.

    losses = cross_entropy(norm(x) @ head^T, targets)             one op, some rows of logits at a time
    losses = cross_entropy(norm(x) @ head^T + bias, targets)      two ops where the head has a bias

Gradient. That of the one op, or of cross_entropy and linear one after the other.
"""

from typing import Any, NamedTuple

from xplm.config import DecoderConfig
from xplm.gradients import Gradients
from xplm.kernels.linear import LinearSaved
from xplm.layers.norm import norm_layer_bwd, norm_layer_fwd
from xplm.models.decoder import HEAD_BIAS, NORM, head_name
from xplm.precision import cast
from xplm.runtime import Runtime
from xplm.typing import Array, Params

IGNORE_INDEX = -100
"""A target that is not scored, in Hugging Face's spelling."""


class HeadSaved(NamedTuple):
    norm: Any  # RMSNormSaved or LayerNormSaved
    linear: LinearSaved | None  # None where the head and its loss are one op
    loss: Any  # CrossEntropySaved or LinearCrossEntropySaved


def head_fwd(
    rt: Runtime,
    config: DecoderConfig,
    params: Params,
    x: Array,
    targets: Array,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> tuple[Array, HeadSaved]:
    """Losses (B T,) in the loss island's dtype, 0 where a target is IGNORE_INDEX.

    Args:
        rt: backend, kernels and dtypes.
        config: the model's.
        params: its parameters.
        x: the residual stream after the last block (B, T, C).
        targets: the id after each position (B, T).
        label_smoothing: as `loss_and_grads` takes it.
        z_loss: likewise.
    """
    xp = rt.backend.xp
    n, norm = norm_layer_fwd(rt, config.norm, params, NORM, x)
    n, targets = xp.reshape(n, (-1, n.shape[-1])), xp.reshape(targets, (-1,))
    head, bias = params[head_name(config)], params.get(HEAD_BIAS)
    options: dict[str, Any] = {
        "ignore_index": IGNORE_INDEX,
        "label_smoothing": label_smoothing,
        "z_loss": z_loss,
        "island": rt.dtype.loss,
    }
    if bias is None:
        losses, saved = rt.ops.linear_cross_entropy_fwd(n, head, targets, **options)
        return losses, HeadSaved(norm, None, saved)
    logits, linear = rt.ops.linear_fwd(cast(n, rt.dtype.loss), head, bias)
    losses, loss = rt.ops.cross_entropy_fwd(logits, targets, **options)
    return losses, HeadSaved(norm, linear, loss)


def head_bwd(
    rt: Runtime,
    config: DecoderConfig,
    dlosses: Array,
    saved: HeadSaved,
    shape: tuple[int, ...],
    grads: Gradients,
) -> Array:
    """dx (B, T, C), which is `shape`, from dlosses (B T,); gradients of parameters go to `grads`."""
    name = head_name(config)
    is_frozen = not (grads.wants(name) or grads.wants(HEAD_BIAS))
    if saved.linear is None:
        dn, dhead, _ = rt.ops.linear_cross_entropy_bwd(dlosses, saved.loss, is_frozen=is_frozen)
    else:
        # losses = cross_entropy(logits),  logits = n @ head^T + bias
        dlogits, _ = rt.ops.cross_entropy_bwd(dlosses, saved.loss)
        dn, dhead, dbias = rt.ops.linear_bwd(dlogits, saved.linear, is_frozen=is_frozen)
        dn = cast(dn, rt.dtype.compute)
        grads.add(HEAD_BIAS, dbias)
    grads.add(name, dhead)
    dn = rt.backend.xp.reshape(dn, shape)
    return norm_layer_bwd(rt, config.norm, NORM, dn, saved.norm, grads)
