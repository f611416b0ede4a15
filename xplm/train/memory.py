"""The peak of a training step's memory, predicted from the recipe and the model's configuration.

Throughout a step the memory holds

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

The passes after the first hold G more. With recompute, L A is A and the inputs of the other blocks.
`xplm.models.memory` has A, X and the scratch. Not counted is what a run does between steps: evaluation, samples,
checkpoints and curves.
"""

from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np

from xplm.backend import DeviceMemory
from xplm.config import DecoderConfig
from xplm.memory_plan import MemoryPlan, Moment, plan_peak
from xplm.models.decoder import EMBEDDING, head_name, param_specs
from xplm.models.memory import (
    HeadScratch,
    backward_scratch,
    block_saved,
    head_scratch,
    largest_activation,
)
from xplm.out_of_memory import require_memory
from xplm.params import ParamSpec, count_params
from xplm.runtime import Runtime
from xplm.train.optimizers import Optimizer, find_optimizer
from xplm.train.recipe import Recipe

BYTES_PER_TOKEN = 16
"""Of a batch on the host: an id and a target, int64."""


class Standing(NamedTuple):
    """Bytes of a step's parameters, and of what has their shapes."""

    masters: int
    copies: int  # of them, in the compute dtype; 0 where that is their own
    frozen: int
    average: int
    moments: int
    gradients: int  # of what is trained
    block: int  # of one block's gradients
    table: int  # of the head's gradient; 0 where it is frozen
    is_tied: bool  # whether the head's table is the embedding's
    largest: int  # of the masters
    update: int  # of what a rule in steps of the array library makes beside its results


class Activations(NamedTuple):
    """Bytes of activations at the moments of a pass."""

    head: int
    last_block: int
    first_block: int
    embedding: int


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
        recipe: sizes of batches, optimizer and the rest. Sequences count as long as its context.
        config: the model's.
        trained: specs of what is trained.
        process: what the process holds before there is a model.
    """
    n = recipe.data.batch_size * recipe.data.context
    standing = _standing(rt, recipe, config, trained)
    head = head_scratch(rt, config, n, is_frozen=recipe.train.lora > 0)
    passes = _pass_moments(recipe, standing, _activations(rt, recipe, config), head)
    moments = [_beside(standing, moment) for moment in passes]
    largest = max(standing.largest, head.chunk, largest_activation(rt, config, n))
    return plan_peak(process, [*moments, _update(rt, recipe, standing)], largest)


def require_step_memory(
    rt: Runtime,
    recipe: Recipe,
    config: DecoderConfig,
    trained: Mapping[str, ParamSpec],
    *,
    allocated: int = 0,
) -> None:
    """Refuse a run whose steps need more memory than is free.

    Args:
        rt: where; its policy is a `training_policy`.
        recipe: as `plan_step` takes it.
        config: the model's.
        trained: specs of what is trained.
        allocated: bytes of the parameters and moments that a resumed run has loaded already.

    Raises:
        OutOfMemoryError: the predicted peak beside the process, or the batches of a step, do not fit.
    """
    data = recipe.data
    plan = plan_step(rt, recipe, config, trained, rt.backend.memory())
    largest = max(plan.peak.parts, key=lambda part: plan.peak.parts[part])
    what = (
        f"arrays of a training step ({data.batch_size:,} x {data.context:,} tokens, "
        f"{count_params(trained):,} parameters, {largest} above all)"
    )
    advice = _advice(recipe, largest)
    require_memory(rt.backend, plan.peak.n_bytes - allocated, what, advice)

    n_tokens = data.accumulation * data.batch_size * data.context
    what = f"batches of a step ({data.accumulation:,} of {data.batch_size:,} x {data.context:,} tokens)"
    advice = "lower data.accumulation, data.batch_size or data.context"
    require_memory(rt.backend, BYTES_PER_TOKEN * n_tokens, what, advice, on_host=True)


def _advice(recipe: Recipe, largest: str) -> str:
    """What to change in a recipe whose steps do not fit."""
    if largest in ("activations", "logits"):
        return "lower data.batch_size or data.context, or set train.recompute=true"
    if recipe.train.init:
        return "fine-tune a smaller model, or adapters of a low rank: --lora 8"
    return "lower model.hidden_size, model.num_hidden_layers or data.vocab_size"


def count_moments(optimizer: Optimizer, trained: Mapping[str, ParamSpec], options: Any) -> int:
    """Elements of an optimizer's moments. Those of a tensor with axes of length 2 show which axes they have."""
    total = 0
    for spec in trained.values():
        probe = np.zeros((2,) * len(spec.shape), np.float32)
        for moment in optimizer.make_moments(probe, spec, options).values():
            axes = zip(spec.shape, moment.shape, strict=True)
            total += prod(size if probed == 2 else 1 for size, probed in axes)
    return total


def count_update(optimizer: str, trained: Mapping[str, ParamSpec]) -> int:
    """Numbers that a rule in steps of the array library makes of one parameter beside its results, at most.

    Muon's iteration has x, A, A^2 and three terms; Adafactor the square, v, u and a quotient; the others a root and
    what is taken off.
    """

    def arrays(spec: ParamSpec) -> int:
        if optimizer == "muon":
            return 6 if spec.is_hidden_matrix else 2
        return 4 if optimizer == "adafactor" else 2

    return max(arrays(spec) * spec.size for spec in trained.values())


def _standing(
    rt: Runtime, recipe: Recipe, config: DecoderConfig, trained: Mapping[str, ParamSpec]
) -> Standing:
    param, compute = rt.host_dtype.param.itemsize, rt.host_dtype.compute.itemsize
    optimizer = find_optimizer(recipe.optimizer.name)
    options = optimizer.make_options(recipe.optimizer.options)
    n = count_params(trained)
    block = {name: spec for name, spec in trained.items() if ".layers.0." in name}
    return Standing(
        masters=n * param,
        copies=n * compute if rt.dtype.compute != rt.dtype.param else 0,
        frozen=count_params(param_specs(config)) * compute if recipe.train.lora else 0,
        average=n * param if recipe.train.ema else 0,
        moments=count_moments(optimizer, trained, options) * param,
        gradients=n * param,
        block=count_params(block) * param,
        table=0 if recipe.train.lora else config.vocab_size * config.hidden_size * param,
        is_tied=head_name(config) == EMBEDDING,
        largest=max(spec.size for spec in trained.values()) * param,
        update=count_update(recipe.optimizer.name, trained) * param,
    )


def _beside(standing: Standing, moment: Moment) -> Moment:
    """A moment of a pass, with what lies there all through the step."""
    parameters = standing.masters + standing.copies + standing.frozen + standing.average
    parts = {"parameters": parameters, "gradients": 0, "optimizer": standing.moments}
    return Moment(moment.name, parts | {"activations": 0, "logits": 0} | dict(moment.parts))


def _update(rt: Runtime, recipe: Recipe, standing: Standing) -> Moment:
    """All masters, moments and averages twice; and what a rule makes that is not fused, or is made of products."""
    name = recipe.optimizer.name
    rule = find_optimizer(name).rule
    scratch = standing.update if rt.fused(rule) is rule or name == "muon" else 0
    parts = {
        "parameters": 2 * standing.masters + standing.frozen + 2 * standing.average,
        "gradients": standing.gradients,
        "optimizer": 2 * standing.moments + scratch,
        "activations": 0,
        "logits": 0,
    }
    return Moment("update", parts)


def _activations(rt: Runtime, recipe: Recipe, config: DecoderConfig) -> Activations:
    """What blocks save, what the head keeps of its input, and scratch."""
    data, train = recipe.data, recipe.train
    n = data.batch_size * data.context
    x = n * config.hidden_size * rt.host_dtype.compute.itemsize
    has_dropout = train.dropout > 0.0
    by_name = block_saved(rt, config, n, rank=train.lora, has_dropout=has_dropout)
    saved = sum(by_name.values())
    scratch = backward_scratch(rt, config, n, data.context, has_dropout=has_dropout)
    # The final norm's input and output; and which of the embedding's numbers are kept.
    ends = 2 * x + (n * config.hidden_size if has_dropout else 0)

    others = config.num_hidden_layers - 1
    below = others * (x if train.recompute else saved)
    again = 2 * x if train.recompute else 0  # the last block's input, and a block's output
    return Activations(
        head=ends + below + (x if train.recompute else saved) + x,
        last_block=ends + below + saved + again + scratch,
        first_block=ends + saved + again + scratch,
        embedding=ends + 2 * x,
    )


def _pass_moments(
    recipe: Recipe, standing: Standing, activations: Activations, head: HeadScratch
) -> list[Moment]:
    """What a pass adds, of each of its moments."""
    n_earlier = min(recipe.data.accumulation - 1, 1)

    def moment(name: str, gradients: int, activations: int, logits: int = 0) -> Moment:
        gradients += n_earlier * standing.gradients
        return Moment(name, {"gradients": gradients, "activations": activations, "logits": logits})

    tables = 2 * standing.table if standing.is_tied else 0
    moments = [
        moment("head", head.gradients, activations.head, head.logits),
        moment("last block", standing.table + standing.block, activations.last_block),
        moment("first block", standing.gradients, activations.first_block),
        moment("embedding", standing.gradients + tables, activations.embedding),
    ]
    if n_earlier:
        moments.append(Moment("sum of gradients", {"gradients": 3 * standing.gradients}))
    return moments
