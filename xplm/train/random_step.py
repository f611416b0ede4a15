"""A training step on random ids, and how long it takes: forward, backward, clipping and the optimizer's update."""

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import NamedTuple

import numpy as np

from xplm.config import DecoderConfig
from xplm.models.decoder import param_specs
from xplm.params import init_params
from xplm.runtime import Runtime
from xplm.train.data import Batch
from xplm.train.recipe import Recipe
from xplm.train.step import StepReport, train_step
from xplm.train.task import first_state, make_task

WARM_UP = 3
"""Steps before the clock counts: the first allocate, and compile where there is something to compile."""

TakeStep = Callable[[], StepReport]
"""Takes a training step."""


class RandomVocabulary(NamedTuple):
    """The vocabulary of random ids, none of which is special."""

    vocab_size: int
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None


def draw_batches(recipe: Recipe, vocab_size: int) -> list[Batch]:
    """Random micro-batches of a step, `data.batch_size` sequences of `data.context` ids each."""
    data = recipe.data
    rng = np.random.default_rng(recipe.train.seed)
    shape = (data.accumulation, data.batch_size, data.context + 1)
    ids = rng.integers(0, vocab_size, shape)
    return [Batch(rows[:, :-1].copy(), rows[:, 1:].copy()) for rows in ids]


def make_step(
    recipe: Recipe, rt: Runtime, config: DecoderConfig, batches: Sequence[Batch]
) -> TakeStep:
    """A new model's training step, each call of which goes on from the last.

    Args:
        recipe: optimizer, schedule and the rest.
        rt: where; its policy is a `training_policy`.
        config: the model's.
        batches: what every step learns from, on the host.

    Raises:
        RequestError: the optimizer or the schedule is not there, or an option of theirs is out of range.
    """
    specs = param_specs(config)
    task = make_task(recipe, rt, config, specs, {}, recipe.train.steps)
    state = first_state(task, init_params(rt, specs, recipe.train.seed))

    def step() -> StepReport:
        nonlocal state
        state, report = train_step(task, state, batches)
        return report

    return step


def time_steps(step: TakeStep, synchronize: Callable[[], None], n_steps: int) -> list[float]:
    """Seconds of each of several steps, after a warm-up. A step that overflowed changes no weight, and is not counted.

    Args:
        step: takes one.
        synchronize: the backend's; waits for its device.
        n_steps: how many to time.
    """
    seconds: list[float] = []
    while len(seconds) < WARM_UP + n_steps:
        synchronize()
        started = perf_counter()
        report = step()
        synchronize()
        if not report.is_skipped:
            seconds.append(perf_counter() - started)
    return seconds[WARM_UP:]
