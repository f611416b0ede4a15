"""The feed-forward half of a block, gated or not.

gated     y = down(act(gate(x)) * up(x))
without   y = down(act(up(x)))

SiLU and its gate are one op, swiglu. Of the other activations a gate is a product of two arrays.

Gradient. With a = act(gate) and h = a * up,

    dup   = dh * a
    dgate = (dh * up) act'(gate)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from xplm.gradients import Gradients
from xplm.layers.context import Context
from xplm.layers.linear import LinearLayerSaved, linear_layer_bwd, linear_layer_fwd, linear_specs
from xplm.params import Init, ParamSpec
from xplm.runtime import Runtime
from xplm.specs import MLPSpec
from xplm.typing import Array, Params


class Activation(NamedTuple):
    """An activation, applied entry by entry."""

    fwd: Callable[[Runtime, Array], tuple[Array, Any]]  # x -> y, saved
    bwd: Callable[[Runtime, Array, Any], tuple[Array]]  # dy, saved -> dx


class GatedSaved(NamedTuple):
    a: Array  # (..., F), act(gate)
    up: Array  # (..., F)
    activation: Any  # the op's saved arrays


class MLPSaved(NamedTuple):
    gate: Any  # LinearLayerSaved, or None without a gate
    up: LinearLayerSaved
    activation: Any  # of the op without a gate; of `gated_fwd` with one
    down: LinearLayerSaved


ACTIVATIONS: dict[str, Activation] = {
    "gelu": Activation(
        lambda rt, x: rt.ops.gelu_fwd(x),
        lambda rt, dy, saved: rt.ops.gelu_bwd(dy, saved),
    ),
    "gelu_erf": Activation(
        lambda rt, x: rt.ops.gelu_erf_fwd(x),
        lambda rt, dy, saved: rt.ops.gelu_erf_bwd(dy, saved),
    ),
    "relu": Activation(
        lambda rt, x: rt.ops.relu_fwd(x),
        lambda rt, dy, saved: rt.ops.relu_bwd(dy, saved),
    ),
    "relu2": Activation(
        lambda rt, x: rt.ops.relu2_fwd(x),
        lambda rt, dy, saved: rt.ops.relu2_bwd(dy, saved),
    ),
}
"""Those of `xplm.specs.ACTIVATIONS` that are an op by themselves."""


def mlp_specs(spec: MLPSpec, name: str, width: int, init: Init) -> list[ParamSpec]:
    """The parameters of a layer between rows of `width` features."""
    F, bias = spec.intermediate_size, spec.bias
    specs: list[ParamSpec] = []
    if spec.is_gated:
        specs += linear_specs(f"{name}.gate_proj", F, width, bias=bias, std=init.std)
    specs += linear_specs(f"{name}.up_proj", F, width, bias=bias, std=init.std)
    return specs + linear_specs(f"{name}.down_proj", width, F, bias=bias, std=init.residual_std)


def mlp_fwd(
    rt: Runtime, spec: MLPSpec, params: Params, name: str, x: Array, context: Context
) -> tuple[Array, MLPSaved]:
    """One MLP.   x (B, T, C)  ->  y (B, T, C)

    Args:
        rt: backend, kernels and dtypes.
        spec: width, activation and biases.
        params: the model's parameters.
        name: prefix of this layer's parameters, such as "model.layers.0.mlp".
        x: input (B, T, C), normalised.
        context: of this forward pass; not read.
    """
    gate_saved = None
    up, up_saved = linear_layer_fwd(rt, params, f"{name}.up_proj", x)  # (B, T, F)
    if spec.is_gated:
        gate, gate_saved = linear_layer_fwd(rt, params, f"{name}.gate_proj", x)  # (B, T, F)
        hidden, activation_saved = gated_fwd(rt, spec.activation, gate, up)  # (B, T, F)
    else:
        hidden, activation_saved = ACTIVATIONS[spec.activation].fwd(rt, up)  # (B, T, F)
    y, down_saved = linear_layer_fwd(rt, params, f"{name}.down_proj", hidden)  # (B, T, C)
    return y, MLPSaved(gate_saved, up_saved, activation_saved, down_saved)


def mlp_bwd(
    rt: Runtime, spec: MLPSpec, name: str, dy: Array, saved: MLPSaved, grads: Gradients
) -> Array:
    """dx (B, T, C), from dy (B, T, C); gradients of parameters go to `grads`."""
    # y = down(hidden)
    dhidden = linear_layer_bwd(rt, f"{name}.down_proj", dy, saved.down, grads)

    # hidden = act(up(x))
    if not spec.is_gated:
        (dup,) = ACTIVATIONS[spec.activation].bwd(rt, dhidden, saved.activation)
        return linear_layer_bwd(rt, f"{name}.up_proj", dup, saved.up, grads)

    # hidden = act(gate(x)) * up(x): x is read twice
    dgate, dup = gated_bwd(rt, spec.activation, dhidden, saved.activation)
    dx_up = linear_layer_bwd(rt, f"{name}.up_proj", dup, saved.up, grads)
    return dx_up + linear_layer_bwd(rt, f"{name}.gate_proj", dgate, saved.gate, grads)


def gated_fwd(rt: Runtime, activation: str, gate: Array, up: Array) -> tuple[Array, Any]:
    """y = act(gate) * up.   gate, up (..., F)  ->  y (..., F)"""
    if activation == "silu":
        return rt.ops.swiglu_fwd(gate, up)
    a, saved = ACTIVATIONS[activation].fwd(rt, gate)
    return a * up, GatedSaved(a, up, saved)


def gated_bwd(rt: Runtime, activation: str, dy: Array, saved: Any) -> tuple[Array, Array]:
    """dgate and dup (..., F), from dy (..., F)."""
    if activation == "silu":
        return rt.ops.swiglu_bwd(dy, saved)

    # y = a * up,  a = act(gate)
    (dgate,) = ACTIVATIONS[activation].bwd(rt, dy * saved.up, saved.activation)
    return dgate, dy * saved.a
