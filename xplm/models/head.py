"""The head and its loss: logits of the final norm's output, and their cross-entropy.

    losses = cross_entropy(x @ head^T, targets)             one op, some rows of logits at a time
    losses = cross_entropy(x @ head^T + bias, targets)      two ops where the head has a bias

Gradient. That of the one op, or of cross_entropy and linear one after the other.
"""

from typing import Any, NamedTuple

from xplm.config import DecoderConfig
from xplm.models.decoder import HEAD_BIAS, head_name
from xplm.precision import cast
from xplm.runtime import Runtime
from xplm.typing import Array, Params

IGNORE_INDEX = -100
"""A target that is not scored, in Hugging Face's spelling."""


class HeadSaved(NamedTuple):
    linear: Any  # LinearSaved; None where the head and its loss are one op
    loss: Any  # CrossEntropySaved or LinearCrossEntropySaved


def head_loss_fwd(
    rt: Runtime,
    config: DecoderConfig,
    params: Params,
    x: Array,
    targets: Array,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> tuple[Array, HeadSaved]:
    """Losses (N,) in the loss island's dtype, 0 where a target is IGNORE_INDEX.   x (N, C); targets (N,)"""
    head, bias = params[head_name(config)], params.get(HEAD_BIAS)
    if bias is None:
        losses, saved = rt.ops.linear_cross_entropy_fwd(
            x,
            head,
            targets,
            ignore_index=IGNORE_INDEX,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
            island=rt.dtype.loss,
        )
        return losses, HeadSaved(None, saved)
    logits, linear = rt.ops.linear_fwd(cast(x, rt.dtype.loss), head, bias)
    losses, saved = rt.ops.cross_entropy_fwd(
        logits,
        targets,
        ignore_index=IGNORE_INDEX,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        island=rt.dtype.loss,
    )
    return losses, HeadSaved(linear, saved)


def head_loss_bwd(
    rt: Runtime, config: DecoderConfig, dlosses: Array, saved: HeadSaved
) -> tuple[Array, Params]:
    """dx (N, C) and the head's gradients by name, from dlosses (N,)."""
    if saved.linear is None:
        dx, dhead, _ = rt.ops.linear_cross_entropy_bwd(dlosses, saved.loss)
        return dx, {head_name(config): dhead}

    # losses = cross_entropy(logits),  logits = x @ head^T + bias
    dlogits, _ = rt.ops.cross_entropy_bwd(dlosses, saved.loss)
    dx, dhead, dbias = rt.ops.linear_bwd(dlogits, saved.linear)
    return cast(dx, rt.dtype.compute), {head_name(config): dhead, HEAD_BIAS: dbias}
