"""The norm of a family: rms_norm, or layer_norm where the configuration says so."""

from typing import Any

from xplm.config import DecoderConfig
from xplm.runtime import Runtime
from xplm.typing import Array, Params


def norm_layer_fwd(
    rt: Runtime, config: DecoderConfig, params: Params, name: str, x: Array
) -> tuple[Array, Any]:
    """The configured norm over the last axis.   x (..., C)  ->  y (..., C)

    Args:
        rt: backend, kernels and dtypes.
        config: the model's.
        params: the model's parameters.
        name: prefix of this layer's parameters, such as "model.norm".
        x: input (..., C).
    """
    weight, eps, wide = params[f"{name}.weight"], config.norm_eps, rt.dtype.norm
    if config.norm == "rms_norm":
        return rt.ops.rms_norm_fwd(x, weight, eps=eps, wide=wide)
    return rt.ops.layer_norm_fwd(x, weight, params[f"{name}.bias"], eps=eps, wide=wide)


def norm_layer_bwd(
    rt: Runtime, config: DecoderConfig, name: str, dy: Array, saved: Any
) -> tuple[Array, Params]:
    """dx (..., C) and this layer's gradients by parameter name, from dy (..., C)."""
    if config.norm == "rms_norm":
        dx, dweight = rt.ops.rms_norm_bwd(dy, saved)
        return dx, {f"{name}.weight": dweight}
    dx, dweight, dbias = rt.ops.layer_norm_bwd(dy, saved)
    return dx, {f"{name}.weight": dweight, f"{name}.bias": dbias}
