"""The norm of a family: rms_norm, or layer_norm where the configuration says so; alone, and behind an addition."""

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
    weight, eps, island = params[f"{name}.weight"], config.norm_eps, rt.dtype.norm
    if config.norm == "rms_norm":
        return rt.ops.rms_norm_fwd(x, weight, eps=eps, island=island)
    return rt.ops.layer_norm_fwd(x, weight, params[f"{name}.bias"], eps=eps, island=island)


def norm_layer_bwd(
    rt: Runtime, config: DecoderConfig, name: str, dy: Array, saved: Any
) -> tuple[Array, Params]:
    """dx (..., C) and this layer's gradients by parameter name, from dy (..., C)."""
    if config.norm == "rms_norm":
        dx, dweight = rt.ops.rms_norm_bwd(dy, saved)
        return dx, {f"{name}.weight": dweight}
    dx, dweight, dbias = rt.ops.layer_norm_bwd(dy, saved)
    return dx, {f"{name}.weight": dweight, f"{name}.bias": dbias}


def add_norm_layer_fwd(
    rt: Runtime, config: DecoderConfig, params: Params, name: str, x: Array, branch: Array
) -> tuple[Array, Array, Any]:
    """y = x + branch, and its norm.   x, branch (..., C)  ->  y, n (..., C)

    Arguments as `norm_layer_fwd`'s; `branch` is what attention, or another half of a block, made of x.
    """
    if _is_one_op(rt, config):
        weight, eps, island = params[f"{name}.weight"], config.norm_eps, rt.dtype.norm
        return rt.ops.add_rms_norm_fwd(x, branch, weight, eps=eps, island=island)
    y = x + branch
    n, saved = norm_layer_fwd(rt, config, params, name, y)
    return y, n, saved


def add_norm_layer_bwd(
    rt: Runtime, config: DecoderConfig, name: str, dy: Array, dn: Array, saved: Any
) -> tuple[Array, Params]:
    """dx (..., C), which is dbranch too, and this layer's gradients by parameter name, from dy and dn (..., C).

    `saved` may be `norm_layer_fwd`'s too: where nothing was added x is y, and gets both.
    """
    if _is_one_op(rt, config):
        dx, dweight = rt.ops.add_rms_norm_bwd(dy, dn, saved)
        return dx, {f"{name}.weight": dweight}
    dx, grads = norm_layer_bwd(rt, config, name, dn, saved)
    return dy + dx, grads


def _is_one_op(rt: Runtime, config: DecoderConfig) -> bool:
    """Whether the table has addition and norm as one op, both ways: see `xplm.kernels.fusions`."""
    return config.norm == "rms_norm" and rt.has("add_rms_norm_fwd", "add_rms_norm_bwd")
