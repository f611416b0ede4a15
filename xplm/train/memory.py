"""The peak of a training step's memory, foretold from the recipe and the model's configuration.

All through a step lie there

    P         masters
    M         the optimizer's moments
    E         their average, where there is one
    frozen    weights beside adapters

and, P' being the masters in the compute dtype where that is another, G the gradients, A what a block saves, L the
number of blocks, and X what the head keeps of its input, the peak is the largest of

    head         P' + L A + X + logits of a chunk + the table's gradient
    last block   P' + L A + X + the table's gradient + the block's + scratch
    first block  P' +   A + X + G + scratch
    embedding    P' +       X + G, with tied embeddings the gradient of the table twice more
    sum          P' + 3 G              gradients so far, this pass's, and their sum; where there are several passes
    update       P + M + E + G         all of the next step's, while this one's are still there

The passes after the first hold G more, those after the second 2 G. With recompute, L A is A and the inputs of the
other blocks. `xplm.models.memory` has A, X and the scratch. Evaluation, samples and checkpoints are not counted: they
hold neither gradients nor what blocks save.
"""

from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np

from xplm.backend import DeviceMemory
from xplm.config import DecoderConfig
from xplm.memory_plan import MemoryPlan, Moment, plan_peak
from xplm.models.decoder import EMBEDDING, head_name, param_specs
from xplm.models.memory import backward_scratch, block_saved, head_scratch, largest_activation
from xplm.params import ParamSpec, count_params
from xplm.runtime import Runtime
from xplm.train.optimizers import Optimizer, find_optimizer
from xplm.train.recipe import Recipe

PORTABLE_UPDATES = 6
"""Arrays of a parameter's size that a rule in steps of the array library makes beside its results, at most."""


class Standing(NamedTuple):
    """Bytes of what a step is taken from."""

    masters: int
    copies: int  # of them, in the compute dtype; 0 where that is their own
    frozen: int
    average: int
    moments: int
    gradients: int  # of what is trained
    passing: int  # of what a pass differentiates by: beside adapters, norms and tables too
    largest: int  # of the masters


def plan_step(
    rt: Runtime,
    recipe: Recipe,
    config: DecoderConfig,
    trained: Mapping[str, ParamSpec],
    process: DeviceMemory,
) -> MemoryPlan:
    """The peak of a training step.

    Args:
        rt: where; its policy is a `training_policy`.
        recipe: sizes of batches, optimizer and the rest.
        config: the model's.
        trained: specs of what is trained.
        process: what the process holds before there is a model.
    """
    standing = _standing(rt, recipe, config, trained)
    passes = [*_pass_moments(rt, recipe, config, trained, standing)]
    if recipe.data.accumulation > 1:
        passes.append(Moment("sum of gradients", {"gradients": 3 * standing.gradients}))

    moments = [_beside(standing, moment) for moment in passes]
    n = recipe.data.batch_size * recipe.data.context
    largest = max(standing.largest, largest_activation(rt, config, n))
    return plan_peak(process, [*moments, _update(rt, recipe, standing)], largest)


def count_moments(optimizer: Optimizer, trained: Mapping[str, ParamSpec], options: Any) -> int:
    """Numbers in an optimizer's moments. What it makes for the least of tensors tells which axes they have."""
    total = 0
    for spec in trained.values():
        probe = np.zeros((2,) * len(spec.shape), np.float32)
        for moment in optimizer.make_moments(probe, spec, options).values():
            axes = zip(spec.shape, moment.shape, strict=True)
            total += prod(size if probed == 2 else 1 for size, probed in axes)
    return total


def _standing(
    rt: Runtime, recipe: Recipe, config: DecoderConfig, trained: Mapping[str, ParamSpec]
) -> Standing:
    param, compute = rt.host_dtype.param.itemsize, rt.host_dtype.compute.itemsize
    optimizer = find_optimizer(recipe.optimizer.name)
    options = optimizer.make_options(recipe.optimizer.options)
    n = count_params(trained)
    return Standing(
        masters=n * param,
        copies=n * compute if rt.dtype.compute != rt.dtype.param else 0,
        frozen=count_params(param_specs(config)) * compute if recipe.train.lora else 0,
        average=n * param if recipe.train.ema else 0,
        moments=count_moments(optimizer, trained, options) * param,
        gradients=n * param,
        passing=(n + count_params(_unadapted(recipe, config))) * param,
        largest=max(spec.size for spec in trained.values()) * param,
    )


def _unadapted(recipe: Recipe, config: DecoderConfig) -> dict[str, ParamSpec]:
    """What has a gradient in a pass, though it is not trained: all that no adapter stands beside."""
    if not recipe.train.lora:
        return {}
    return {name: spec for name, spec in param_specs(config).items() if "_proj." not in name}


def _beside(standing: Standing, moment: Moment) -> Moment:
    """A moment of a pass, with what lies there all through the step."""
    parameters = standing.masters + standing.copies + standing.frozen + standing.average
    parts = {"parameters": parameters, "gradients": 0, "optimizer": standing.moments}
    return Moment(moment.name, parts | {"activations": 0, "logits": 0} | dict(moment.parts))


def _update(rt: Runtime, recipe: Recipe, standing: Standing) -> Moment:
    """All masters, moments and averages twice."""
    rule = find_optimizer(recipe.optimizer.name).rule
    scratch = PORTABLE_UPDATES * standing.largest if rt.fused(rule) is rule else 0
    parts = {
        "parameters": 2 * standing.masters + standing.frozen + 2 * standing.average,
        "gradients": standing.gradients,
        "optimizer": 2 * standing.moments + scratch,
        "activations": 0,
        "logits": 0,
    }
    return Moment("update", parts)


def _pass_moments(
    rt: Runtime,
    recipe: Recipe,
    config: DecoderConfig,
    trained: Mapping[str, ParamSpec],
    standing: Standing,
) -> list[Moment]:
    """What a pass adds, of each of its moments."""
    data, train, L = recipe.data, recipe.train, config.num_hidden_layers
    n = data.batch_size * data.context
    wide = rt.host_dtype.param.itemsize
    x = n * config.hidden_size * rt.host_dtype.compute.itemsize  # one row of activations a position
    by_name = block_saved(rt, config, n, rank=train.lora, has_dropout=train.dropout > 0.0)
    saved = sum(by_name.values())
    scratch = backward_scratch(rt, config, n, data.context)
    head_input = 2 * x  # the final norm's, and what it gives
    ends = head_input + (n * config.hidden_size if train.dropout else 0)

    all_saved = L * x if train.recompute else L * saved
    last, first = all_saved + scratch, saved + scratch
    if train.recompute:  # the block's input, which it saves again, and its output
        last, first = last + saved, first + 2 * x

    earlier = min(data.accumulation - 1, 2) * standing.gradients
    grads, table = standing.passing, config.vocab_size * config.hidden_size * wide
    block = sum(spec.size for name, spec in trained.items() if ".layers.0." in name) * wide
    is_tied = head_name(config) == EMBEDDING
    head = head_scratch(rt, config, n)
    tables = 2 * table if is_tied else 0

    def moment(name: str, gradients: int, activations: int, logits: int = 0) -> Moment:
        parts = {"gradients": earlier + gradients, "activations": ends + activations}
        return Moment(name, parts | {"logits": logits})

    return [
        moment("head", head["gradients"], all_saved + x, head["logits"]),
        moment("last block", table + block, last),
        moment("first block", grads, first),
        moment("embedding", grads + tables, 2 * x),
    ]
