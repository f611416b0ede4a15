"""The loss of one text and its gradient with respect to every parameter, in one call.

    loss = -mean of log p(id_t | ids before it),  t = 1 .. T - 1

The same pass as in training, without an optimizer: gradients that pass through less than float32's range are those of
a scaled loss, and divided by the scale in float32. The largest power of two that does not overflow is found by halving.
"""

from collections.abc import Sequence
from math import isfinite

import numpy as np

from xplm.config import DecoderConfig
from xplm.errors import RequestError
from xplm.models.decoder import param_specs
from xplm.models.loss_scale import MIN_SCALE, make_loss_scale, unscale
from xplm.models.memory import measure_pass
from xplm.models.training import loss_and_grads
from xplm.out_of_memory import memory_faults, require_memory
from xplm.params import count_params, global_norm
from xplm.precision import cast
from xplm.runtime import Runtime
from xplm.typing import Params

ADVICE = "take a shorter text or a smaller model, or free memory"


def text_loss_and_grads(
    rt: Runtime, config: DecoderConfig, params: Params, ids: Sequence[int]
) -> tuple[float, Params]:
    """One pass over a text, forward and back.

    Args:
        rt: backend, kernels and dtypes.
        config: the model's.
        params: its parameters.
        ids: the text's token ids, checked.

    Returns:
        The mean loss of every id but the first, and the gradients under the parameters' names, in their order and
        dtype. In a narrow dtype a gradient outside its range is rounded to 0 or infinity: in fp8, many are.

    Raises:
        RequestError: there are fewer than 2 ids.
        OutOfMemoryError: the pass does not fit the device's free memory.
    """
    if len(ids) < 2:
        raise RequestError(f"a loss needs a text of at least 2 token ids; got {len(ids)}")
    n_targets = len(ids) - 1
    what = f"the gradients of {n_targets} tokens and their activations"
    require_memory(rt.backend, count_pass(rt, config, n_targets), what, ADVICE)

    policy = rt.policy
    scale = make_loss_scale(policy.compute, policy.matmul, policy.accumulate)
    overflows = np.errstate(over="ignore", invalid="ignore")  # the norm shows both
    with rt.backend.computing(), memory_faults(rt.backend, what, ADVICE), overflows:
        inputs, targets = (
            rt.backend.from_host(np.asarray([part], np.int64)) for part in (ids[:-1], ids[1:])
        )
        while True:
            loss, grads = loss_and_grads(
                rt, config, params, inputs, targets, n_targets=n_targets, loss_scale=scale.scale
            )
            if not scale.is_dynamic or scale.scale == MIN_SCALE:
                break
            if isfinite(float(rt.backend.to_host(global_norm(grads)))):
                break
            scale = scale.update(overflow=True)
        grads = unscale(grads, scale.scale)
        return float(rt.backend.to_host(loss)), {
            name: cast(grads.pop(name), rt.dtype.param) for name in params
        }


def count_pass(rt: Runtime, config: DecoderConfig, n: int) -> int:
    """Bytes that a pass over n tokens takes next to the parameters, at most."""
    specs = param_specs(config)
    moments, _ = measure_pass(rt, config, 1, n, specs)
    gradients = count_params(specs) * rt.host_dtype.param.itemsize  # wide before they are cast
    return max(moment.n_bytes for moment in moments) + gradients
