"""A problem small enough to train in a test: noisy quadratics, whose gradients answer to every step taken."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tests.helpers import frozen
from xplm.backend import Backend, load_backend
from xplm.params import ParamSpec
from xplm.train.optimizers import OPTIMIZERS, OptimizerState
from xplm.typing import Params

SHAPES = {
    "model.embed_tokens.weight": (7, 4),
    "model.layers.0.mlp.up_proj.weight": (5, 4),
    "model.layers.0.mlp.up_proj.bias": (5,),
    "model.layers.0.mlp.down_proj.weight": (4, 5),
    "model.layers.0.mlp.experts.gate_proj.weight": (3, 5, 4),
    "model.norm.weight": (4,),
    "lm_head.weight": (7, 4),
}
SPECS = {name: ParamSpec(name, shape, "normal") for name, shape in SHAPES.items()}
STEPS = 10
LR = 0.02


def start(dtype: str = "float32") -> dict[str, np.ndarray]:
    """The weights at first."""
    rng = np.random.default_rng(1)
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in SHAPES.items()}


def slopes(name: str, dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    """h and z of the gradient h w + z_t: (shape), (STEPS, *shape)."""
    rng = np.random.default_rng([2, *name.encode()])
    curvature = rng.uniform(0.1, 2.0, SHAPES[name]).astype(dtype)
    return curvature, rng.standard_normal((STEPS, *SHAPES[name])).astype(dtype)


def rate(step: int, lr: float = LR) -> float:
    """A learning rate that changes from step to step."""
    return lr * (1.0 + 0.1 * step)


def run_steps(
    optimizer_name: str,
    options: Mapping[str, Any],
    *,
    backend: Backend | None = None,
    dtype: str = "float32",
    lr: float = LR,
    between: Callable[[OptimizerState], OptimizerState] = lambda state: state,
) -> Params:
    """The weights after STEPS steps; `between` is applied to the state before each."""
    backend = backend or load_backend("numpy")
    optimizer = OPTIMIZERS[optimizer_name]
    made = optimizer.make_options(options)
    place = backend.from_host

    params = {name: place(frozen(host)) for name, host in start(dtype).items()}
    problem = {name: tuple(map(place, slopes(name, dtype))) for name in SHAPES}
    state = optimizer.init(params, SPECS, made)
    for step in range(STEPS):
        grads = {name: h * params[name] + z[step, ...] for name, (h, z) in problem.items()}
        params, state = optimizer.update(
            params, grads, between(state), SPECS, lr=rate(step, lr), options=made
        )
    return params
