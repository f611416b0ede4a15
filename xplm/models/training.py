"""The decoder's training pass: a loss, and its gradient with respect to every parameter, by hand, in stages.

    embed      x0 = embed(ids)
    blocks     x_i = block_i(x_(i-1))          any range of them
    head       loss = sum cross_entropy(norm(x_L) @ head^T, targets) / n

The backward pass takes the stages from the last to the first, each line by the gradient derived next to it.

With recompute, a block's input is kept and its forward pass runs again when the backward pass gets there: one forward
pass more, and the activations of one block in memory instead of all.

What nobody trains is not computed: `trainable` names the parameters whose gradients are wanted. The backward pass ends
at the first block that has one of them, and blocks before it keep nothing.
"""

from collections.abc import Container, Sequence
from typing import Any, NamedTuple

from xplm.config import DecoderConfig
from xplm.gradients import Gradients, OnGrad
from xplm.kernels.dropout import DropoutSaved
from xplm.layers.balance import Balance
from xplm.layers.block import Drop, block_bwd, block_fwd, block_name, keep_all, undrop
from xplm.layers.context import AuxiliaryLoss, Context
from xplm.models.decoder import (
    EMBEDDING,
    POSITIONS,
    EmbedSaved,
    embed_bwd,
    embed_fwd,
    head_name,
    make_context,
)
from xplm.models.head import head_bwd, head_fwd
from xplm.precision import wide_dtype
from xplm.runtime import Runtime
from xplm.typing import Array, Params


class BodySaved(NamedTuple):
    embed: EmbedSaved
    drop: DropoutSaved | None  # None where nothing was dropped
    kept: list[Any]  # of each block, what `blocks_bwd` needs


def loss_and_grads(
    rt: Runtime,
    config: DecoderConfig,
    params: Params,
    ids: Array,
    targets: Array,
    *,
    n_targets: float,
    loss_scale: float = 1.0,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    drop: Drop = keep_all,
    recompute: bool = False,
    share: float = 1.0,
    trainable: Container[str] | None = None,
    on_grad: OnGrad | None = None,
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
        loss_scale: multiplies the gradients, not the loss, to keep them above what float16 can hold.
        label_smoothing: share of the target distribution spread over all ids.
        z_loss: weight of the square of the log-sum-exp of the logits.
        drop: dropout of this step.
        recompute: trade one more forward pass for memory.
        share: of the whole batch's scored targets that are this pass's; it weights the losses of blocks.
        trainable: names of the parameters whose gradients are wanted; None: all.
        on_grad: called once with each name and its gradient as soon as it is ready; None: they are returned.

    Returns:
        The loss, 0-D in the dtype of its island, and the wanted gradients times `loss_scale`, wide, where no `on_grad`
        took them.
    """
    uses = {EMBEDDING: 2} if head_name(config) == EMBEDDING else {}  # read as embedding and as head
    grads = Gradients(trainable, uses=uses, on_grad=on_grad)
    lowest = _lowest_trained(config, params, grads)
    block_losses: list[Array] = []
    auxiliary = AuxiliaryLoss(block_losses.append, share * loss_scale, Balance())
    context = make_context(rt, config, ids.shape[1])._replace(auxiliary=auxiliary)

    x, body = _body_fwd(rt, config, params, ids, context, lowest, drop, recompute)
    if (balance := auxiliary.balance.loss(rt)) is not None:
        auxiliary.add(balance)
    loss, dx = _head(
        rt, config, params, x, targets, n_targets, loss_scale, label_smoothing, z_loss, grads
    )
    del x
    for block_loss in block_losses:
        loss = loss + share * block_loss
    _body_bwd(rt, config, params, dx, body, context, lowest, drop, recompute, grads)
    return loss, grads.found


def _body_fwd(
    rt: Runtime,
    config: DecoderConfig,
    params: Params,
    ids: Array,
    context: Context,
    lowest: int,
    drop: Drop,
    recompute: bool,
) -> tuple[Array, BodySaved]:
    """Embedding and all blocks.   ids (B, T)  ->  x (B, T, C)"""
    x, embed_saved = embed_fwd(rt, config, params, ids, context)
    x, embed_drop = drop("model.embed_tokens", x)
    layers = range(len(config.blocks))
    x, kept = blocks_fwd(
        rt, config, params, layers, x, context, drop=drop, recompute=recompute, lowest=lowest
    )
    return x, BodySaved(embed_saved, embed_drop, kept)


def _body_bwd(
    rt: Runtime,
    config: DecoderConfig,
    params: Params,
    dx: Array,
    saved: BodySaved,
    context: Context,
    lowest: int,
    drop: Drop,
    recompute: bool,
    grads: Gradients,
) -> None:
    """From dx (B, T, C) after the last block to the lowest layer with a trained parameter."""
    layers = range(max(lowest, 0), len(config.blocks))
    kept = saved.kept
    dx = blocks_bwd(
        rt, config, params, layers, dx, kept, context, grads, drop=drop, recompute=recompute
    )
    if lowest < 0:
        embed_bwd(rt, config, undrop(rt, dx, saved.drop), saved.embed, grads)


def _head(
    rt: Runtime,
    config: DecoderConfig,
    params: Params,
    x: Array,
    targets: Array,
    n_targets: float,
    loss_scale: float,
    label_smoothing: float,
    z_loss: float,
    grads: Gradients,
) -> tuple[Array, Array]:
    """The last stage, forward and back.   x (B, T, C)  ->  loss, dx (B, T, C) times the loss scale"""
    xp = rt.backend.xp
    losses, saved = head_fwd(
        rt, config, params, x, targets, label_smoothing=label_smoothing, z_loss=z_loss
    )  # (B T,)

    # loss = sum(losses) / n_targets
    dlosses = xp.full_like(losses, loss_scale / n_targets, dtype=wide_dtype(losses, xp))
    return xp.sum(losses) / n_targets, head_bwd(rt, config, dlosses, saved, x.shape, grads)


def blocks_fwd(
    rt: Runtime,
    config: DecoderConfig,
    params: Params,
    layers: Sequence[int],
    x: Array,
    context: Context,
    *,
    drop: Drop = keep_all,
    recompute: bool = False,
    lowest: int = -1,
) -> tuple[Array, list[Any]]:
    """A range of blocks.   x (B, T, C)  ->  x (B, T, C), and for each block what `blocks_bwd` needs of it

    Args:
        rt: backend, kernels and dtypes.
        config: the model's.
        params: its parameters.
        layers: numbers of the blocks, ascending.
        x: the residual stream before them.
        context: of this pass.
        drop: dropout of this step.
        recompute: keep a block's input in place of all that it saves.
        lowest: the first layer that the backward pass comes to; nothing is kept of those before it.
    """
    kept: list[Any] = []
    for layer in layers:
        before = x
        x, saved = block_fwd(rt, config.blocks[layer], params, layer, x, context, drop)
        kept.append(None if layer < lowest else before if recompute else saved)
        del saved
    return x, kept


def blocks_bwd(
    rt: Runtime,
    config: DecoderConfig,
    params: Params,
    layers: Sequence[int],
    dx: Array,
    kept: list[Any],
    context: Context,
    grads: Gradients,
    *,
    drop: Drop = keep_all,
    recompute: bool = False,
) -> Array:
    """dx (B, T, C) before a range of blocks, from dx (B, T, C) after it; gradients of parameters go to `grads`.

    Arguments as `blocks_fwd`'s; `kept` is what it returned, and shrinks as it is used.
    """
    assert context.auxiliary is not None
    again = context._replace(auxiliary=context.auxiliary._replace(add=_is_counted))
    for layer in reversed(layers):
        saved = kept.pop()
        if recompute:
            _, saved = block_fwd(rt, config.blocks[layer], params, layer, saved, again, drop)
        dx = block_bwd(rt, config.blocks[layer], layer, dx, saved, grads)
    return dx


def _is_counted(loss: Array) -> None:
    """Where a recomputed block's loss goes: the first pass has added it."""


def _lowest_trained(config: DecoderConfig, params: Params, grads: Gradients) -> int:
    """The first layer with a trained parameter; -1 where a table before them is trained, L where none is."""
    if grads.wants(EMBEDDING) or grads.wants(POSITIONS):
        return -1
    for layer in range(len(config.blocks)):
        prefix = f"{block_name(layer)}."
        if any(name.startswith(prefix) and grads.wants(name) for name in params):
            return layer
    return len(config.blocks)
