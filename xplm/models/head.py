"""The last stage of a training pass: the final norm, the head and its loss.

    losses = cross_entropy(norm(x) @ head^T + bias, targets)      the bias where the head has one

Logits are scaled and capped as `xplm.models.decoder` has them. Head and loss are one op, which makes some rows of
logits at a time.
"""

from typing import Any, NamedTuple

from xplm.config import DecoderConfig
from xplm.gradients import Gradients
from xplm.kernels.linear_cross_entropy import LinearCrossEntropySaved
from xplm.layers.norm import norm_layer_bwd, norm_layer_fwd
from xplm.models.decoder import HEAD_BIAS, NORM, head_name, head_weight
from xplm.runtime import Runtime
from xplm.typing import Array, Params

IGNORE_INDEX = -100
"""A target that is not scored, in Hugging Face's spelling."""


class HeadSaved(NamedTuple):
    norm: Any  # RMSNormSaved or LayerNormSaved
    loss: LinearCrossEntropySaved


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
    losses, saved = rt.ops.linear_cross_entropy_fwd(
        n,
        head_weight(config, params),
        targets,
        params.get(HEAD_BIAS),
        ignore_index=IGNORE_INDEX,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        logit_scale=config.logit_scale,
        logit_cap=config.logit_cap,
        island=rt.dtype.loss,
    )
    return losses, HeadSaved(norm, saved)


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
    dn, dhead, _, dbias = rt.ops.linear_cross_entropy_bwd(dlosses, saved.loss, is_frozen=is_frozen)
    grads.add(name, dhead)
    grads.add(HEAD_BIAS, dbias)
    dn = rt.backend.xp.reshape(dn, shape)
    return norm_layer_bwd(rt, config.norm, NORM, dn, saved.norm, grads)
