"""Which activations a training step leaves out.

The masks of a step follow from (seed, step, micro-batch, name of the place) by a counter-based generator on the host:
they are the same on every backend, when a block is computed again, and in a run that was interrupted and resumed.
"""

import numpy as np

from xplm.kernels.dropout import DropoutSaved
from xplm.layers.block import Drop, keep_all
from xplm.runtime import Runtime
from xplm.typing import Array


def make_drop(rt: Runtime, rate: float, *, seed: int, step: int, micro: int) -> Drop:
    """The dropout of one pass.

    Args:
        rt: backend and kernels.
        rate: share left out, in [0, 1).
        seed: the run's.
        step: which step, from 0.
        micro: which of the step's passes, from 0.
    """
    if rate == 0.0:
        return keep_all

    def drop(name: str, x: Array) -> tuple[Array, DropoutSaved]:
        keep = draw_keep((seed, step, micro, *name.encode()), x.shape, rate)
        return rt.ops.dropout_fwd(x, rt.backend.from_host(keep), rate=rate)

    return drop


def draw_keep(key: tuple[int, ...], shape: tuple[int, ...], rate: float) -> np.ndarray:
    """What stays: True with probability 1 - rate.   key of non-negative integers  ->  bool of `shape`"""
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
    return generator.random(shape, dtype=np.float32) >= rate
