"""Fused kernels: numba in place of NumPy, under the names and signatures of `xplm.kernels`.

What a fused kernel does not take on (another dtype, an island given up) it hands to its portable twin of the same name.
"""

from collections.abc import Callable
from typing import Any

from xplm_numpy.kernels.attention_residual import attention_residual
from xplm_numpy.kernels.linear import linear_fwd
from xplm_numpy.kernels.norm_mlp_residual import norm_mlp_residual
from xplm_numpy.kernels.norm_qkv_rope import norm_qkv_rope
from xplm_numpy.kernels.rms_norm import rms_norm_bwd, rms_norm_fwd

FUSED: dict[str, Callable[..., Any]] = {
    kernel.__name__: kernel
    for kernel in (
        linear_fwd,
        rms_norm_fwd,
        rms_norm_bwd,
        norm_qkv_rope,
        attention_residual,
        norm_mlp_residual,
    )
}
