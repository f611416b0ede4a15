"""A norm of the last axis, of the kind that its spec names; alone, and behind an addition.

    rms     y = x / rms(x) * (offset + weight)
    layer   y = (x - mean(x)) / std(x) * (offset + weight) + bias

The ops know no offset. The sum is the weight that they take; its gradient is the weight's, for d(offset + w) / dw = 1.
A weight that there is not is one, a bias zero, and nothing takes their gradients.

Numerics. The sum is in the norm island's dtype: 1 + w in bfloat16 would leave w the eight bits of 1. RMS norms with an
offset compute in the island up to y and round once, in Gemma's order; Llama's rounds the row before it is scaled.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from xplm.gradients import Gradients
from xplm.kernels.parts.norms import LAYER, RMS, RMS_ONCE
from xplm.params import ParamSpec
from xplm.precision import cast
from xplm.runtime import Runtime
from xplm.specs import LayerNormSpec, NormSpec, RMSNormSpec
from xplm.typing import Array, DType, Params


class NormKind(NamedTuple):
    """A kind of norm: what its parameters start as, its forward and its backward pass."""

    inits: Callable[[Any], dict[str, str]]  # spec -> by the end of a parameter's name
    fwd: Callable[[Runtime, Any, Params, str, Array], tuple[Array, Any]]
    bwd: Callable[[Runtime, Any, Array, Any], dict[str, Array]]
    """(rt, spec, dy, saved) -> the gradients of "x" and of each parameter, by the end of its name."""
    bind: Callable[[Runtime, Any, Params, str, int], Array]
    """As `bind_norm`."""


def norm_specs(spec: NormSpec, name: str, width: int) -> list[ParamSpec]:
    """The parameters of a norm of `width` features."""
    inits = NORMS[type(spec)].inits(spec)
    return [
        ParamSpec(f"{name}.{part}", (width,), init, is_norm=True) for part, init in inits.items()
    ]


def norm_layer_fwd(
    rt: Runtime, spec: NormSpec, params: Params, name: str, x: Array
) -> tuple[Array, Any]:
    """The norm over the last axis.   x (..., C)  ->  y (..., C)

    Args:
        rt: backend, kernels and dtypes.
        spec: which norm.
        params: the model's parameters.
        name: prefix of this layer's parameters, such as "model.norm".
        x: input (..., C).
    """
    return NORMS[type(spec)].fwd(rt, spec, params, name, x)


def norm_layer_bwd(
    rt: Runtime, spec: NormSpec, name: str, dy: Array, saved: Any, grads: Gradients
) -> Array:
    """dx (..., C), from dy (..., C); this layer's gradients go to `grads`."""
    kind = NORMS[type(spec)]
    found = kind.bwd(rt, spec, dy, saved)
    for part in kind.inits(spec):
        grads.add(f"{name}.{part}", found[part])
    return found["x"]


def add_norm_layer_fwd(
    rt: Runtime, spec: NormSpec, params: Params, name: str, x: Array, branch: Array
) -> tuple[Array, Array, Any]:
    """y = x + branch, and its norm.   x, branch (..., C)  ->  y, n (..., C)

    Arguments as `norm_layer_fwd`'s; `branch` is the output of a mixer, or of another half of a block.
    """
    if _is_one_op(rt, spec):
        weight = params[f"{name}.weight"]
        return rt.ops.add_rms_norm_fwd(x, branch, weight, eps=spec.eps, island=rt.dtype.norm)
    y = x + branch
    n, saved = norm_layer_fwd(rt, spec, params, name, y)
    return y, n, saved


def add_norm_layer_bwd(
    rt: Runtime, spec: NormSpec, name: str, dy: Array, dn: Array, saved: Any, grads: Gradients
) -> Array:
    """dx (..., C), which is dbranch too, from dy and dn (..., C); this layer's gradients go to `grads`.

    `saved` may be `norm_layer_fwd`'s too: where nothing was added x is y, and gets both.
    """
    if _is_one_op(rt, spec):
        dx, dweight = rt.ops.add_rms_norm_bwd(dy, dn, saved)
        grads.add(f"{name}.weight", dweight)
        return dx
    return dy + norm_layer_bwd(rt, spec, name, dn, saved, grads)


def fusion_kind(spec: NormSpec) -> str:
    """Its kind among those of `xplm.kernels.parts.norms`."""
    if isinstance(spec, LayerNormSpec):
        return LAYER
    return RMS_ONCE if spec.offset else RMS


def bind_norm(rt: Runtime, spec: NormSpec, params: Params, name: str, width: int) -> Array:
    """The array that the fusions of `xplm.kernels.parts.norms` take for a norm of `width` features."""
    return NORMS[type(spec)].bind(rt, spec, params, name, width)


def _is_one_op(rt: Runtime, spec: NormSpec) -> bool:
    """Whether the table has addition and norm as one op, both ways: see `xplm.kernels.fusions`."""
    is_plain = isinstance(spec, RMSNormSpec) and not spec.offset
    return is_plain and rt.has("add_rms_norm_fwd", "add_rms_norm_bwd")


def _start(spec: NormSpec) -> str:
    """What a weight starts as, so that offset + weight is 1."""
    return "zeros" if spec.offset else "ones"


def _with_offset(rt: Runtime, spec: NormSpec, weight: Array) -> Array:
    """offset + weight (C,), in the island where there is an offset."""
    island = rt.dtype.norm
    return cast(cast(weight, island) + spec.offset, island) if spec.offset else weight


def _rms_norm_fwd(
    rt: Runtime, spec: RMSNormSpec, params: Params, name: str, x: Array
) -> tuple[Array, Any]:
    weight = _with_offset(rt, spec, params[f"{name}.weight"])
    xw = cast(x, rt.dtype.norm) if spec.offset else x
    y, saved = rt.ops.rms_norm_fwd(xw, weight, eps=spec.eps, island=rt.dtype.norm)
    return cast(y, x.dtype), saved


def _rms_norm_bwd(rt: Runtime, spec: RMSNormSpec, dy: Array, saved: Any) -> dict[str, Array]:
    dyw = cast(dy, rt.dtype.norm) if spec.offset else dy
    dx, dweight = rt.ops.rms_norm_bwd(dyw, saved)
    return {"x": cast(dx, dy.dtype) if spec.offset else dx, "weight": dweight}


def _bind_rms_norm(rt: Runtime, spec: RMSNormSpec, params: Params, name: str, width: int) -> Array:
    return _with_offset(rt, spec, params[f"{name}.weight"])


def _layer_norm_inits(spec: LayerNormSpec) -> dict[str, str]:
    weight = {"weight": _start(spec)} if spec.has_weight else {}
    return weight | ({"bias": "zeros"} if spec.has_bias else {})


def _layer_norm_fwd(
    rt: Runtime, spec: LayerNormSpec, params: Params, name: str, x: Array
) -> tuple[Array, Any]:
    weight, bias = _layer_norm_params(rt, spec, params, name, x.shape[-1], x.dtype)
    return rt.ops.layer_norm_fwd(x, weight, bias, eps=spec.eps, island=rt.dtype.norm)


def _layer_norm_params(
    rt: Runtime, spec: LayerNormSpec, params: Params, name: str, width: int, dtype: DType
) -> tuple[Array, Array]:
    """Weight and bias as the op takes them, ones and zeros (width,) of a dtype for those that there are not."""
    xp, device = rt.backend.xp, rt.backend.device
    if spec.has_weight:
        weight = _with_offset(rt, spec, params[f"{name}.weight"])
    else:
        weight = xp.ones((width,), dtype=dtype, device=device)
    if spec.has_bias:
        return weight, params[f"{name}.bias"]
    return weight, xp.zeros((width,), dtype=dtype, device=device)


def _bind_layer_norm(
    rt: Runtime, spec: LayerNormSpec, params: Params, name: str, width: int
) -> Array:
    island = rt.dtype.norm
    pair = _layer_norm_params(rt, spec, params, name, width, island)
    weight, bias = (cast(part, island) for part in pair)
    return rt.backend.xp.stack([weight, rt.backend.xp.broadcast_to(bias, weight.shape)])


def _layer_norm_bwd(rt: Runtime, spec: LayerNormSpec, dy: Array, saved: Any) -> dict[str, Array]:
    dx, dweight, dbias = rt.ops.layer_norm_bwd(dy, saved)
    return {"x": dx, "weight": dweight, "bias": dbias}


NORMS: dict[type, NormKind] = {
    RMSNormSpec: NormKind(
        lambda spec: {"weight": _start(spec)}, _rms_norm_fwd, _rms_norm_bwd, _bind_rms_norm
    ),
    LayerNormSpec: NormKind(_layer_norm_inits, _layer_norm_fwd, _layer_norm_bwd, _bind_layer_norm),
}
