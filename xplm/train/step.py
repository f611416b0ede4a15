"""One training step: from a batch and the state before it to the state after it.

    gradient   of the mean loss over all scored targets of the batch, micro-batch by micro-batch
    unscale    divide out what kept float16 gradients in range
    clip       by the norm of all gradients together
    update     the optimizer's, of float32 masters

The pass itself sees the masters rounded to the policy's compute dtype. A gradient that is not finite changes nothing:
the step is skipped, and the next one is scaled by half as much.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, NamedTuple

import numpy as np

from xplm.config import DecoderConfig
from xplm.errors import RequestError
from xplm.models.loss_scale import MIN_SCALE, unscale
from xplm.models.training import loss_and_grads
from xplm.params import ParamSpec, accumulate
from xplm.precision import cast
from xplm.runtime import Runtime
from xplm.train.clip import clip_by_global_norm
from xplm.train.data import Batch
from xplm.train.dropout import make_drop
from xplm.train.ema import ema_decay, ema_update
from xplm.train.optimizers import Optimizer
from xplm.train.recipe import TrainRecipe
from xplm.train.schedule import Schedule
from xplm.train.state import TrainState
from xplm.typing import Params


@dataclass(frozen=True)
class Task:
    """What stays the same from step to step."""

    rt: Runtime
    config: DecoderConfig
    specs: Mapping[str, ParamSpec]  # of what is trained
    frozen: Params  # what is not, in the compute dtype
    optimizer: Optimizer
    options: Any  # the optimizer's
    schedule: Schedule
    clip: float | None  # largest norm of the gradient
    recipe: TrainRecipe


class StepReport(NamedTuple):
    """What a step came to."""

    loss: float  # mean over its scored targets
    grad_norm: float  # before clipping
    lr: float
    n_targets: int  # scored
    n_tokens: int  # read
    is_skipped: bool  # for a gradient that is not finite


def pass_params(task: Task, trained: Params) -> Params:
    """Everything that a pass through the model reads, in the compute dtype."""
    dtype = task.rt.dtype.compute
    return task.frozen | {name: cast(param, dtype) for name, param in trained.items()}


def train_step(
    task: Task, state: TrainState, batches: Sequence[Batch]
) -> tuple[TrainState, StepReport]:
    """Take a step.

    Args:
        task: model, optimizer and options.
        state: before the step; it stays as it is.
        batches: micro-batches, on the host. Their targets weigh the same, whichever of them they are in.

    Returns:
        The state after the step, and what it came to.

    Raises:
        RequestError: the loss is not finite, and no loss scale can help.
    """
    with task.rt.backend.computing():
        return _step(task, state, batches)


def _step(task: Task, state: TrainState, batches: Sequence[Batch]) -> tuple[TrainState, StepReport]:
    n_targets = max(1, sum(batch.n_targets for batch in batches))
    n_tokens = sum(batch.ids.size for batch in batches)
    lr = task.schedule(state.step)

    with np.errstate(over="ignore", invalid="ignore"):  # the norm tells of both
        loss, grads = _loss_and_grads(task, state, batches, n_targets)
        grads = unscale(grads, state.scale.scale)
        grads, norm = task.rt.fused(clip_by_global_norm)(grads, task.clip)
    mean_loss, grad_norm = (float(task.rt.backend.to_host(number)) for number in (loss, norm))
    report = StepReport(mean_loss, grad_norm, lr, n_targets, n_tokens, not isfinite(grad_norm))

    scale = state.scale.update(report.is_skipped)
    if report.is_skipped:
        if not state.scale.is_dynamic or state.scale.scale == MIN_SCALE:
            raise RequestError(
                f"loss and gradient must stay finite; at step {state.step} they are {report.loss} and "
                f"{report.grad_norm}; lower schedule.lr, or lengthen schedule.warmup_steps"
            )
        return replace(state, step=state.step + 1, scale=scale), report

    masters, optimizer = task.optimizer.update(
        state.masters, grads, state.optimizer, task.specs, lr=lr, options=task.options
    )
    average = state.average
    if average:
        average = ema_update(average, masters, ema_decay(task.recipe.ema, state.optimizer.step))
    after = replace(
        state,
        step=state.step + 1,
        masters=masters,
        optimizer=optimizer,
        average=average,
        scale=scale,
    )
    return after, report


def _loss_and_grads(
    task: Task, state: TrainState, batches: Sequence[Batch], n_targets: int
) -> tuple[Any, Params]:
    """The batch's loss, 0-D, and its gradients times the loss scale."""
    rt, recipe = task.rt, task.recipe
    params = pass_params(task, state.masters)
    loss: Any = 0.0
    grads: Params = {}
    for micro, batch in enumerate(batches):
        drop = make_drop(rt, recipe.dropout, seed=recipe.seed, step=state.step, micro=micro)
        more_loss, more = loss_and_grads(
            rt,
            task.config,
            params,
            rt.backend.from_host(batch.ids),
            rt.backend.from_host(batch.targets),
            n_targets=n_targets,
            loss_scale=state.scale.scale,
            label_smoothing=recipe.label_smoothing,
            z_loss=recipe.z_loss,
            drop=drop,
            recompute=recipe.recompute,
            share=batch.n_targets / n_targets,
            trainable=task.specs.keys(),
        )
        loss = loss + more_loss
        # In the table's order, on which the rounding of the norm depends.
        grads = accumulate(grads, {name: more[name] for name in task.specs})
        del more  # the next pass needs the room
    return loss, grads
