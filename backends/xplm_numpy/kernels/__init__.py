"""Fused kernels: numba in place of NumPy, under the names and signatures of `xplm.kernels`.

What a fused kernel does not take on (another dtype, an island given up) it hands to its portable twin of the same name.
"""

from collections.abc import Callable
from typing import Any

from xplm_numpy.kernels.rms_norm import rms_norm_bwd, rms_norm_fwd

FUSED: dict[str, Callable[..., Any]] = {
    kernel.__name__: kernel
    for kernel in (
        rms_norm_fwd,
        rms_norm_bwd,
    )
}
