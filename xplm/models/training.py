"""The decoder's training pass: a loss, and its gradient with respect to every parameter, by hand.

    forward    x0 = embed(ids);  x_i = block_i(x_(i-1));  loss = sum cross_entropy(norm(x_L) @ head^T, targets) / n
    backward   the same lines from the last to the first, each by the gradient derived beside it

With recompute, a block's input is kept and its forward pass runs again when the backward pass gets there: one forward
pass more, and the activations of one block in memory instead of all.
"""

from typing import Any

from xplm.config import DecoderConfig
from xplm.layers.block import Drop, block_bwd, block_fwd, keep_all, undrop
from xplm.layers.norm import norm_layer_bwd, norm_layer_fwd
from xplm.models.decoder import NORM, embed_bwd, embed_fwd, make_context
from xplm.models.head import head_loss_bwd, head_loss_fwd
from xplm.params import accumulate
from xplm.precision import wide_dtype
from xplm.runtime import Runtime
from xplm.typing import Array, Params


def loss_and_grads(
    rt: Runtime,
    config: DecoderConfig,
    params: Params,
    ids: Array,
    targets: Array,
    *,
    n_targets: float,
    first: Any = None,
    loss_scale: float = 1.0,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    drop: Drop = keep_all,
    recompute: bool = False,
) -> tuple[Array, Params]:
    """One pass forward and back.

    Args:
        rt: backend, kernels and dtypes.
        config: the model's.
        params: its parameters, in the policy's compute dtype or wider.
        ids: token ids (B, T), integer, on the backend's device.
        targets: the id after each position (B, T), IGNORE_INDEX where it is not scored.
        n_targets: scored targets in the whole batch; losses are divided by it. With gradient accumulation it counts
            all micro-batches, and their results add up to the whole batch's.
        first: for each row the slot its sequence begins in (B,), on the host; None: slot 0.
        loss_scale: multiplies the gradients, not the loss, to keep them above what float16 can hold.
        label_smoothing: share of the target distribution spread over all ids.
        z_loss: weight of the square of the log-sum-exp of the logits.
        drop: dropout of this step.
        recompute: trade one more forward pass for memory.

    Returns:
        The loss, 0-D in the dtype of its island, and the gradient of every parameter times `loss_scale`, wide.
    """
    xp = rt.backend.xp
    context = make_context(rt, config, ids.shape[1], first=first)

    x, embed_saved = embed_fwd(rt, params, ids, context)  # (B, T, C)
    x, embed_drop = drop("model.embed_tokens", x)
    kept: list[Any] = []  # of each block what its backward pass saved, or with recompute its input
    for layer, block in enumerate(config.blocks):
        block_input = x
        x, saved = block_fwd(rt, block, params, layer, x, context, drop)
        kept.append(block_input if recompute else saved)
        del saved
    shape = x.shape
    x, norm_saved = norm_layer_fwd(rt, config.norm, params, NORM, x)

    losses, head_saved = head_loss_fwd(
        rt,
        config,
        params,
        xp.reshape(x, (-1, shape[-1])),
        xp.reshape(targets, (-1,)),
        label_smoothing=label_smoothing,
        z_loss=z_loss,
    )  # (B T,)
    loss = xp.sum(losses) / n_targets

    # loss = sum(losses) / n_targets
    dlosses = xp.full_like(losses, loss_scale / n_targets, dtype=wide_dtype(losses, xp))
    dx, head_grads = head_loss_bwd(rt, config, dlosses, head_saved)
    dx, grads = norm_layer_bwd(rt, config.norm, NORM, xp.reshape(dx, shape), norm_saved)
    grads |= head_grads

    for layer, block in reversed(list(enumerate(config.blocks))):
        saved = kept.pop()
        if recompute:
            _, saved = block_fwd(rt, block, params, layer, saved, context, drop)
        dx, more = block_bwd(rt, block, layer, dx, saved)
        grads |= more

    # A tied table is read twice, as embedding and as head: its gradients add up.
    dx = undrop(rt, dx, embed_drop)
    return loss, accumulate(grads, embed_bwd(rt, dx, embed_saved))
