"""From a recipe to what a training step needs: the task, and the state before the first step."""

from collections.abc import Mapping
from dataclasses import replace

from xplm.config import DecoderConfig
from xplm.models.loss_scale import make_loss_scale
from xplm.params import ParamSpec
from xplm.precision import Policy
from xplm.runtime import Runtime
from xplm.train.optimizers import find_optimizer
from xplm.train.recipe import Recipe
from xplm.train.schedule import make_schedule
from xplm.train.state import TrainState
from xplm.train.step import Task
from xplm.typing import Params


def training_policy(policy: Policy) -> Policy:
    """The policy with master weights: float32 at rest, whatever a pass computes in."""
    return replace(policy, param="float64" if policy.compute == "float64" else "float32")


def gradient_formats(policy: Policy) -> tuple[str, ...]:
    """The formats that a gradient passes through."""
    return policy.compute, policy.matmul, policy.accumulate


def make_task(
    recipe: Recipe,
    rt: Runtime,
    config: DecoderConfig,
    trained: Mapping[str, ParamSpec],
    frozen: Params,
    steps: int,
) -> Task:
    """What stays the same from step to step.

    Args:
        recipe: optimizer, schedule and the rest.
        rt: where; its policy is a `training_policy`.
        config: the model's.
        trained: the specs of what is trained.
        frozen: what else a pass reads, in the compute dtype.
        steps: of the whole run.

    Raises:
        RequestError: the optimizer or the schedule is not there, or an option of theirs is out of range.
    """
    optimizer = find_optimizer(recipe.optimizer.name)
    schedule = recipe.schedule
    return Task(
        rt=rt,
        config=config,
        specs=trained,
        frozen=frozen,
        optimizer=replace(optimizer, rule=rt.fused(optimizer.rule)),
        options=optimizer.make_options(recipe.optimizer.options),
        schedule=make_schedule(
            schedule.kind,
            lr=schedule.lr,
            min_lr=schedule.min_lr,
            warmup_steps=schedule.warmup_steps,
            steps=steps,
            decay_steps=schedule.decay_steps,
        ),
        clip=recipe.optimizer.clip or None,
        recipe=recipe.train,
    )


def first_state(task: Task, masters: Params) -> TrainState:
    """The state before the first step, from the weights to begin with."""
    return TrainState(
        step=0,
        masters=masters,
        optimizer=task.optimizer.init(masters, task.specs, task.options),
        average=dict(masters) if task.recipe.ema else {},
        scale=make_loss_scale(*gradient_formats(task.rt.policy)),
    )
