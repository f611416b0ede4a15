"""The feed-forward half of a block, gated or not as the configuration says.

swiglu    y = down(silu(gate(x)) * up(x))
gelu      y = down(gelu(up(x)))
"""

from typing import Any, NamedTuple

from xplm.config import DecoderConfig
from xplm.layers.linear import linear_layer_bwd, linear_layer_fwd
from xplm.runtime import Runtime
from xplm.typing import Array, Params


class MLPSaved(NamedTuple):
    gate: Any  # LinearSaved, or None without a gate
    up: Any  # LinearSaved
    activation: Any  # SwigluSaved or GeluSaved
    down: Any  # LinearSaved


def mlp_fwd(
    rt: Runtime, config: DecoderConfig, params: Params, name: str, x: Array
) -> tuple[Array, MLPSaved]:
    """y = down(activation(x)).   x (B, T, C)  ->  y (B, T, C)

    Args:
        rt: backend, kernels and dtypes.
        config: the model's.
        params: the model's parameters.
        name: prefix of this layer's parameters, such as "model.layers.0.mlp".
        x: input (B, T, C).
    """
    gate_saved = None
    up, up_saved = linear_layer_fwd(rt, params, f"{name}.up_proj", x)  # (B, T, F)
    if config.activation == "swiglu":
        gate, gate_saved = linear_layer_fwd(rt, params, f"{name}.gate_proj", x)  # (B, T, F)
        hidden, activation_saved = rt.ops.swiglu_fwd(gate, up)  # (B, T, F)
    else:
        hidden, activation_saved = rt.ops.gelu_fwd(up)  # (B, T, F)
    y, down_saved = linear_layer_fwd(rt, params, f"{name}.down_proj", hidden)  # (B, T, C)
    return y, MLPSaved(gate_saved, up_saved, activation_saved, down_saved)


def mlp_bwd(
    rt: Runtime, config: DecoderConfig, name: str, dy: Array, saved: MLPSaved
) -> tuple[Array, Params]:
    """dx (B, T, C) and gradients by parameter name, from dy (B, T, C)."""
    # y = down(hidden)
    dhidden, grads = linear_layer_bwd(rt, f"{name}.down_proj", dy, saved.down)

    # hidden = gelu(up(x))
    if config.activation == "gelu":
        (dup,) = rt.ops.gelu_bwd(dhidden, saved.activation)
        dx, up_grads = linear_layer_bwd(rt, f"{name}.up_proj", dup, saved.up)
        return dx, grads | up_grads

    # hidden = swiglu(gate(x), up(x)): x is read twice
    dgate, dup = rt.ops.swiglu_bwd(dhidden, saved.activation)
    dx_up, up_grads = linear_layer_bwd(rt, f"{name}.up_proj", dup, saved.up)
    dx_gate, gate_grads = linear_layer_bwd(rt, f"{name}.gate_proj", dgate, saved.gate)
    return dx_up + dx_gate, grads | up_grads | gate_grads
