"""A linear layer: a weight, a bias where the parameters have one, and a low-rank adapter where they have that.

    y = x @ weight^T + bias
    y = x @ weight^T + bias + (x @ lora_A^T) @ lora_B^T         lora_A (R, C), lora_B (N, R)

Beside an adapter the weight and the bias are frozen: they get no gradient, and none is computed.

Source: Hu et al., "LoRA", arXiv:2106.09685, section 4.1, with the factor alpha / r taken into lora_B.

Gradient. x is read by both branches, so what comes back through them adds up.
"""

from typing import NamedTuple, TypeAlias

from xplm.gradients import Gradients
from xplm.kernels.linear import LinearSaved
from xplm.params import ParamSpec
from xplm.runtime import Runtime
from xplm.typing import Array, Params
from xplm.weights import Weight


class AdaptedSaved(NamedTuple):
    base: LinearSaved
    down: LinearSaved  # of lora_A
    up: LinearSaved  # of lora_B


LinearLayerSaved: TypeAlias = LinearSaved | AdaptedSaved


def linear_specs(
    name: str, outputs: int, inputs: int, *, bias: bool, std: float
) -> list[ParamSpec]:
    """The parameters of a layer without an adapter."""
    weight = ParamSpec(f"{name}.weight", (outputs, inputs), "normal", std)
    return [weight, ParamSpec(f"{name}.bias", (outputs,), "zeros")] if bias else [weight]


class LinearWeights(NamedTuple):
    """What a layer without an adapter multiplies by, and adds."""

    weight: Weight  # (N, C)
    bias: Array | None  # (N,)


def read_linear(params: Params, name: str) -> LinearWeights:
    """The weight and the bias of the layer of this name, its adapter aside."""
    return LinearWeights(params[f"{name}.weight"], params.get(f"{name}.bias"))


def linear_layer_fwd(
    rt: Runtime, params: Params, name: str, x: Array
) -> tuple[Array, LinearLayerSaved]:
    """y = x @ weight^T + bias, and the adapter's part.   x (..., C)  ->  y (..., N)

    Args:
        rt: backend, kernels and dtypes.
        params: the model's parameters.
        name: prefix of this layer's parameters, such as "model.layers.0.self_attn.q_proj".
        x: input (..., C).
    """
    y, saved = rt.ops.linear_fwd(x, *read_linear(params, name))
    if f"{name}.lora_A.weight" not in params:
        return y, saved
    inner, down = rt.ops.linear_fwd(x, params[f"{name}.lora_A.weight"])  # (..., R)
    correction, up = rt.ops.linear_fwd(inner, params[f"{name}.lora_B.weight"])  # (..., N)
    return y + correction, AdaptedSaved(saved, down, up)


def linear_layer_bwd(
    rt: Runtime, name: str, dy: Array, saved: LinearLayerSaved, grads: Gradients
) -> Array:
    """dx (..., C), from dy (..., N); this layer's gradients go to `grads`."""
    if isinstance(saved, AdaptedSaved):
        return _adapted_bwd(rt, name, dy, saved, grads)
    is_frozen = not (grads.wants(f"{name}.weight") or grads.wants(f"{name}.bias"))
    dx, dweight, dbias = rt.ops.linear_bwd(dy, saved, is_frozen=is_frozen)
    grads.add(f"{name}.weight", dweight)
    grads.add(f"{name}.bias", dbias)
    return dx


def _adapted_bwd(rt: Runtime, name: str, dy: Array, saved: AdaptedSaved, grads: Gradients) -> Array:
    # correction = inner @ lora_B^T,  inner = x @ lora_A^T
    dinner, dlora_b, _ = rt.ops.linear_bwd(dy, saved.up)
    dx, dlora_a, _ = rt.ops.linear_bwd(dinner, saved.down)
    grads.add(f"{name}.lora_B.weight", dlora_b)
    grads.add(f"{name}.lora_A.weight", dlora_a)

    # y = x @ weight^T + bias, of which x alone is differentiated
    dx_base, _, _ = rt.ops.linear_bwd(dy, saved.base, is_frozen=True)
    return dx + dx_base
