"""The one table of a model's parameters.

A model lists its parameters as ParamSpec rows; loading, counting, initialising and weight decay all read the same row.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from xplm.namespace import array_namespace
from xplm.precision import cast
from xplm.runtime import Runtime
from xplm.typing import Array, Params


@dataclass(frozen=True)
class ParamSpec:
    """All that is known of a parameter before it is loaded."""

    name: str  # Hugging Face's
    shape: tuple[int, ...]
    init: str  # "normal", "ones" or "zeros"
    std: float = 0.0  # of "normal"
    is_norm: bool = False  # of a norm; it may have a row for each head

    @property
    def decays(self) -> bool:
        """Whether weight decay applies: to matrices, stacked ones too, not to biases and norms."""
        return len(self.shape) > 1 and not (self.is_norm or self.name.endswith(".bias"))

    @property
    def is_hidden_matrix(self) -> bool:
        """Whether it is a matrix inside a block: neither a table, nor the head, nor rows of vectors."""
        return self.decays and len(self.shape) == 2 and ".layers." in self.name

    @property
    def size(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)


class Init(NamedTuple):
    """Standard deviations of a block's initial matrices."""

    std: float
    residual_std: float  # of those whose output is added to the residual stream


def accumulate(grads: Params, more: Params) -> Params:
    """The sum of two gradients; a name that only one of them has keeps what it has."""
    both = grads.keys() & more.keys()
    return grads | more | {name: grads[name] + more[name] for name in both}


def global_norm(grads: Params) -> Array:
    """The Euclidean norm of all gradients together: 0-D, on their device; inf or NaN if any number of them is."""
    xp = array_namespace(next(iter(grads.values())))
    return xp.sqrt(xp.sum(xp.stack([xp.sum(grad * grad) for grad in grads.values()])))


def count_params(specs: Mapping[str, ParamSpec]) -> int:
    """Numbers in all parameters together."""
    return sum(spec.size for spec in specs.values())


def init_params(rt: Runtime, specs: Mapping[str, ParamSpec], seed: int) -> Params:
    """Draw parameters, the same on every backend.

    Each parameter has a counter-based generator of its own, keyed by the seed and by its name, so that neither the
    order nor the presence of others changes what it gets.

    Args:
        rt: where the parameters go, and their dtype.
        specs: the model's table.
        seed: any non-negative integer.
    """
    params = {}
    for name, spec in specs.items():
        host = _draw(spec, seed)
        params[name] = cast(rt.backend.from_host(host), rt.dtype.param)
    return params


def _draw(spec: ParamSpec, seed: int) -> np.ndarray:
    if spec.init == "ones":
        return np.ones(spec.shape, np.float32)
    if spec.init == "zeros":
        return np.zeros(spec.shape, np.float32)
    key = [seed, *spec.name.encode()]
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
    return generator.normal(0.0, spec.std, spec.shape).astype(np.float32)
