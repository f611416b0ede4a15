"""A norm of the last axis, of the kind that its spec names; alone, and behind an addition."""

from collections.abc import Callable
from typing import Any, NamedTuple

from xplm.gradients import Gradients
from xplm.params import ParamSpec
from xplm.runtime import Runtime
from xplm.specs import LayerNormSpec, NormSpec, RMSNormSpec
from xplm.typing import Array, Params


class NormKind(NamedTuple):
    """A kind of norm: what its parameters start as, its forward and its backward pass."""

    inits: dict[str, str]  # by the end of a parameter's name
    fwd: Callable[[Runtime, Any, Params, str, Array], tuple[Array, Any]]
    bwd: Callable[[Runtime, Array, Any], tuple[Array, ...]]  # dx, and a gradient for each parameter


def norm_specs(spec: NormSpec, name: str, width: int) -> list[ParamSpec]:
    """The parameters of a norm of `width` features."""
    inits = NORMS[type(spec)].inits
    return [ParamSpec(f"{name}.{part}", (width,), init) for part, init in inits.items()]


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
    dx, *found = kind.bwd(rt, dy, saved)
    for part, gradient in zip(kind.inits, found, strict=True):
        grads.add(f"{name}.{part}", gradient)
    return dx


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


def _is_one_op(rt: Runtime, spec: NormSpec) -> bool:
    """Whether the table has addition and norm as one op, both ways: see `xplm.kernels.fusions`."""
    return isinstance(spec, RMSNormSpec) and rt.has("add_rms_norm_fwd", "add_rms_norm_bwd")


def _rms_norm_fwd(
    rt: Runtime, spec: RMSNormSpec, params: Params, name: str, x: Array
) -> tuple[Array, Any]:
    return rt.ops.rms_norm_fwd(x, params[f"{name}.weight"], eps=spec.eps, island=rt.dtype.norm)


def _layer_norm_fwd(
    rt: Runtime, spec: LayerNormSpec, params: Params, name: str, x: Array
) -> tuple[Array, Any]:
    weight, bias = params[f"{name}.weight"], params[f"{name}.bias"]
    return rt.ops.layer_norm_fwd(x, weight, bias, eps=spec.eps, island=rt.dtype.norm)


NORMS: dict[type, NormKind] = {
    RMSNormSpec: NormKind(
        {"weight": "ones"},
        _rms_norm_fwd,
        lambda rt, dy, saved: rt.ops.rms_norm_bwd(dy, saved),
    ),
    LayerNormSpec: NormKind(
        {"weight": "ones", "bias": "zeros"},
        _layer_norm_fwd,
        lambda rt, dy, saved: rt.ops.layer_norm_bwd(dy, saved),
    ),
}
