"""Rounding up or down at random, so that what is rounded away is right on average (`xplm.formats` has the formula).

rt = make_runtime(backend, "fp8", rounding=stochastic(backend, seed=1))
"""

import numpy as np

from xplm.backend import Backend
from xplm.emulation.namespace import Rounding
from xplm.formats import Format, round_to
from xplm.namespace import array_namespace
from xplm.typing import Array


def stochastic(backend: Backend, seed: int) -> Rounding:
    """A rounding for `emulate` whose coins are drawn on the host, in the order in which arrays are rounded.

    Args:
        backend: the one that is emulated on, where the coins are copied to.
        seed: of the coins; the same work after the same seed rounds the same way, to the bit.
    """
    generator = np.random.Generator(np.random.Philox(key=seed))

    def rounding(x: Array, format: Format) -> Array:
        is_wide = x.dtype == array_namespace(x).float64
        dtype = np.float64 if is_wide else np.float32
        coins = np.asarray(generator.random(x.shape, dtype), dtype)
        return round_to(x, format, coin=backend.from_host(coins))

    return rounding
