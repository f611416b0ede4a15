"""The feed-forward half of a block, gated or not.

swiglu    y = down(silu(gate(x)) * up(x))
gelu      y = down(gelu(up(x)))
"""

from typing import Any, NamedTuple

from xplm.gradients import Gradients
from xplm.kernels.gelu import GeluSaved
from xplm.kernels.swiglu import SwigluSaved
from xplm.layers.context import Context
from xplm.layers.linear import LinearLayerSaved, linear_layer_bwd, linear_layer_fwd, linear_specs
from xplm.params import Init, ParamSpec
from xplm.runtime import Runtime
from xplm.specs import MLPSpec
from xplm.typing import Array, Params


class MLPSaved(NamedTuple):
    gate: Any  # LinearLayerSaved, or None without a gate
    up: LinearLayerSaved
    activation: Any  # SwigluSaved or GeluSaved
    down: LinearLayerSaved


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
    """y = down(activation(x)).   x (B, T, C)  ->  y (B, T, C)

    Args:
        rt: backend, kernels and dtypes.
        spec: width, activation and biases.
        params: the model's parameters.
        name: prefix of this layer's parameters, such as "model.layers.0.mlp".
        x: input (B, T, C), normalised.
        context: of this forward pass; not read.
    """
    activation_saved: SwigluSaved | GeluSaved
    gate_saved = None
    up, up_saved = linear_layer_fwd(rt, params, f"{name}.up_proj", x)  # (B, T, F)
    if spec.is_gated:
        gate, gate_saved = linear_layer_fwd(rt, params, f"{name}.gate_proj", x)  # (B, T, F)
        hidden, activation_saved = rt.ops.swiglu_fwd(gate, up)  # (B, T, F)
    else:
        hidden, activation_saved = rt.ops.gelu_fwd(up)  # (B, T, F)
    y, down_saved = linear_layer_fwd(rt, params, f"{name}.down_proj", hidden)  # (B, T, C)
    return y, MLPSaved(gate_saved, up_saved, activation_saved, down_saved)


def mlp_bwd(
    rt: Runtime, spec: MLPSpec, name: str, dy: Array, saved: MLPSaved, grads: Gradients
) -> Array:
    """dx (B, T, C), from dy (B, T, C); gradients of parameters go to `grads`."""
    # y = down(hidden)
    dhidden = linear_layer_bwd(rt, f"{name}.down_proj", dy, saved.down, grads)

    # hidden = gelu(up(x))
    if not spec.is_gated:
        (dup,) = rt.ops.gelu_bwd(dhidden, saved.activation)
        return linear_layer_bwd(rt, f"{name}.up_proj", dup, saved.up, grads)

    # hidden = swiglu(gate(x), up(x)): x is read twice
    dgate, dup = rt.ops.swiglu_bwd(dhidden, saved.activation)
    dx_up = linear_layer_bwd(rt, f"{name}.up_proj", dup, saved.up, grads)
    return dx_up + linear_layer_bwd(rt, f"{name}.gate_proj", dgate, saved.gate, grads)
