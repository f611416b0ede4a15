"""One step of every optimizer on both sides, from the same masters, gradients and moments.

A rule is a few dozen operations on each number, some of which cancel (a weight minus its step) and some of which feed
back on themselves (Muon's iteration). Its bound is measured: the reference takes the same step a few times with every
number that goes in moved at random by OPERATIONS u of itself, a parameter by 2 u, and what that moves the outcome by is
what rounding may do (`compare` has the argument, and the factor). Masters are float32, or float64 under a float64
policy.
"""

from dataclasses import replace

import numpy as np

from xplm.config import DecoderConfig
from xplm.models.decoder import param_specs
from xplm.numerics.parity.bounds import unit_roundoff, wide_of
from xplm.numerics.parity.compare import DRAWS, judge_result, norm
from xplm.numerics.parity.judge import Verdict
from xplm.numerics.parity.rounded import formats_of, to_host
from xplm.numerics.tiny_models import draw_params
from xplm.runtime import Runtime
from xplm.train.optimizers.optimizer import OptimizerState
from xplm.train.optimizers.table import OPTIMIZERS, find_optimizer
from xplm.typing import Params

OPERATIONS = 8
"""Roundings between a gradient or a moment and a step."""

LR = 0.01
STEP = 2  # updates made before the one that is checked

NAMES = tuple(OPTIMIZERS)


@np.errstate(all="ignore")
def check_optimizer(
    test: Runtime,
    reference: Runtime,
    name: str,
    config: DecoderConfig,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[Verdict]:
    """One optimizer on the parameters of a model: a verdict for each parameter and each moment.

    Args:
        test: the runtime under test.
        reference: a float64 runtime.
        name: of OPTIMIZERS.
        config: whose parameters to step.
        draws: perturbed steps.
        seed: of numbers and perturbations.
    """
    optimizer = find_optimizer(name)
    values = {"momentum": 0.9} if name == "sgd" else {}
    options = optimizer.make_options(values)
    specs = param_specs(config)
    dtype = wide_of(formats_of(test).compute)

    def narrow(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {key: array.astype(dtype).astype(np.float64) for key, array in arrays.items()}

    params, grads = narrow(draw_params(specs, seed)), narrow(draw_params(specs, seed + 1))
    shapes = optimizer.init(
        {key: test.backend.from_host(array.astype(dtype)) for key, array in params.items()},
        specs,
        options,
    ).moments
    rng = np.random.default_rng(seed)
    moments = narrow(
        {key: rng.uniform(0.1, 1.0, tuple(array.shape)) for key, array in shapes.items()}
    )

    def step(
        rt: Runtime, host: np.dtype, shake: np.random.Generator | None
    ) -> dict[str, np.ndarray]:
        def put(arrays: dict[str, np.ndarray], roundings: int) -> Params:
            size = roundings * unit_roundoff(dtype)
            return {
                key: rt.backend.from_host(
                    (array if shake is None else array * (1.0 + size * shake.uniform(-1.0, 1.0, array.shape)))
                    .astype(host)
                )
                for key, array in arrays.items()
            }  # fmt: skip

        state = OptimizerState(STEP, put(moments, OPERATIONS))
        own = replace(optimizer, rule=rt.fused(optimizer.rule))
        new_params, state = own.update(
            put(params, 2), put(grads, OPERATIONS), state, specs, lr=LR, options=options
        )
        return {key: to_host(rt, array) for key, array in (new_params | state.moments).items()}

    found = step(test, dtype, None)
    wide = np.dtype(np.float64)
    plain = step(reference, wide, None)
    spread = dict.fromkeys(plain, 0.0)
    for draw in range(draws):
        moved = step(reference, wide, np.random.default_rng([seed, draw]))
        for key in plain:
            spread[key] += norm(moved[key], plain[key]) ** 2 / draws
    return [judge_result(key, found[key], plain[key], spread[key] ** 0.5) for key in plain]
