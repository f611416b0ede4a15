"""A run tried out in memory: what it would train, the peak predicted, and two steps that show it.

Two, because the second is the first to have an optimizer's state behind it.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from xplm.backend import DeviceMemory
from xplm.config import DecoderConfig
from xplm.memory_plan import MemoryPlan
from xplm.models.miniature import POSITIONS, miniature
from xplm.out_of_memory import memory_faults
from xplm.params import count_params
from xplm.runtime import Runtime
from xplm.train.memory import plan_step
from xplm.train.prepare import ADVICE, Material, make_first
from xplm.train.random_step import draw_batches, make_step
from xplm.train.recipe import Recipe, ScheduleRecipe
from xplm.train.step import train_step

STEPS = 2


class DryRun(NamedTuple):
    """What a run would be."""

    n_params: int  # trained
    steps: int
    n_tokens: int  # of all its steps, padding included
    plan: MemoryPlan
    measured_peak: int  # bytes, of the process, after two steps
    losses: Sequence[float]  # theirs


def dry_run(material: Material) -> DryRun:
    """Take a run's first two steps, and write nothing.

    Args:
        material: what the run would be made of.

    Raises:
        XplmError: the recipe is not fit for it, a step does not fit the memory, or the loss is not finite.
    """
    with memory_faults(material.rt.backend, "a training step", ADVICE):
        return _dry_run(material)


def _dry_run(material: Material) -> DryRun:
    recipe, rt, dataset = material.recipe, material.rt, material.dataset
    process = measure_process(recipe, rt, material.config)
    plan = plan_step(rt, recipe, material.config, material.trained, process)
    task, state = make_first(material)
    losses = []
    for step in range(STEPS):
        batches = [dataset.batch(step, i) for i in range(recipe.data.accumulation)]
        state, report = train_step(task, state, batches)
        losses.append(report.loss)

    data = recipe.data
    n_tokens = material.steps * data.accumulation * data.batch_size * data.context
    peak = rt.backend.memory().peak
    return DryRun(count_params(material.trained), material.steps, n_tokens, plan, peak, losses)


def measure_process(recipe: Recipe, rt: Runtime, config: DecoderConfig) -> DeviceMemory:
    """What the process holds without the model: a step of a miniature has brought in all the code of a step.

    Where that code had to be compiled first, the model takes up what compiling gave back, and the peak stays below the
    one predicted.
    """
    sizes = replace(recipe.data, batch_size=1, context=POSITIONS, accumulation=1)
    once = replace(recipe.train, steps=1, lora=0)
    recipe = replace(recipe, data=sizes, schedule=ScheduleRecipe(kind="constant"), train=once)
    small = miniature(config)
    step = make_step(recipe, rt, small, draw_batches(recipe, small.vocab_size))
    while step().is_skipped:  # until the optimizer has run too
        pass
    rt.backend.synchronize()
    return rt.backend.memory()
