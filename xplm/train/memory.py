"""The peak of a training step's memory, predicted from the recipe and the model's configuration.

Throughout a step the memory holds

    P         masters
    M         the optimizer's moments
    E         their average, where there is one
    frozen    weights next to adapters

and, P' being the masters in the compute dtype where that is another, and G the gradients, the peak is the largest of

    a pass    P' + each of its moments in `xplm.models.memory`
    sum       P' + 3 G           gradients so far, this pass's, and their sum; where there are several passes
    update    P + M + E + G      all of the next step's, while this one's are still there

The passes after the first hold G more. Not counted is what a run does between steps: evaluation, samples, checkpoints
and curves.
"""

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from xplm.backend import DeviceMemory
from xplm.config import DecoderConfig
from xplm.memory_plan import MemoryPlan, Moment, plan_peak
from xplm.models.decoder import param_specs
from xplm.models.memory import measure_pass
from xplm.out_of_memory import require_memory
from xplm.params import ParamSpec, count_params
from xplm.runtime import Runtime
from xplm.train.optimizers import Optimizer, find_optimizer
from xplm.train.recipe import Recipe

BYTES_PER_TOKEN = 16
"""Of a batch on the host: an id and a target, int64."""


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
    data, train, name = recipe.data, recipe.train, recipe.optimizer.name
    param, compute = rt.host_dtype.param.itemsize, rt.host_dtype.compute.itemsize
    optimizer = find_optimizer(name)
    is_fused = rt.fused(optimizer.rule) is not optimizer.rule and name != "muon"  # of products
    scratch = 0 if is_fused else count_update(name, trained) * param
    options = optimizer.make_options(recipe.optimizer.options)
    kept = count_moments(optimizer, trained, options) * param
    masters = count_params(trained) * param
    copies = count_params(trained) * compute if rt.dtype.compute != rt.dtype.param else 0
    frozen = count_params(param_specs(config)) * compute if train.lora else 0
    average = masters if train.ema else 0

    def moment(name: str, parameters: int, optimizer: int, parts: Mapping[str, int]) -> Moment:
        standing = {"parameters": parameters, "gradients": 0, "optimizer": optimizer}
        return Moment(name, standing | {"activations": 0, "logits": 0} | dict(parts))

    sizes: Any = {"dropout": train.dropout, "recompute": train.recompute}
    passes, largest = measure_pass(rt, config, data.batch_size, data.context, trained, **sizes)
    standing = masters + copies + frozen + average
    earlier = masters if data.accumulation > 1 else 0  # the gradients of the passes before
    passes.append(Moment("sum of gradients", {"gradients": 2 * earlier}))
    moments = [
        moment(name, standing, kept, {**parts, "gradients": parts["gradients"] + earlier})
        for name, parts in passes
    ]
    updated = 2 * masters + frozen + 2 * average
    moments.append(moment("update", updated, 2 * kept + scratch, {"gradients": masters}))
    largest = max(largest, param * max(spec.size for spec in trained.values()))
    return plan_peak(process, moments, largest)


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
    # Before a block of these widths is measured.
    masters, advice = count_params(trained) * rt.host_dtype.param.itemsize, _advice(recipe, "")
    require_memory(rt.backend, masters - allocated, "the parameters of a run", advice)

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
