"""A linear layer of each expert's rows, and a low-rank adapter for each expert where the parameters have that.

    y_m = x_m @ weight_e^T + bias_e                                          for every row m of expert e
    y_m = x_m @ weight_e^T + bias_e + (x_m @ lora_A_e^T) @ lora_B_e^T        lora_A (E, R, C), lora_B (E, N, R)

As `xplm.layers.linear`, with `expert_linear` in the place of `linear`: next to an adapter weight and bias are frozen.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from xplm.gradients import Gradients
from xplm.kernels.expert_linear import ExpertLinearSaved
from xplm.layers.linear import read_linear
from xplm.runtime import Runtime
from xplm.typing import Array, Params


class AdaptedExpertsSaved(NamedTuple):
    base: ExpertLinearSaved
    down: ExpertLinearSaved  # of lora_A
    up: ExpertLinearSaved  # of lora_B


ExpertLinearLayerSaved: TypeAlias = ExpertLinearSaved | AdaptedExpertsSaved


def expert_linear_layer_fwd(
    rt: Runtime, params: Params, name: str, x: Array, counts: Sequence[int]
) -> tuple[Array, ExpertLinearLayerSaved]:
    """y = x @ weight_e^T + bias_e, and the adapter's part.   x (M, C)  ->  y (M, N)

    Args:
        rt: backend, kernels and dtypes.
        params: the model's parameters.
        name: prefix of this layer's parameters, such as "model.layers.0.mlp.experts.up_proj".
        x: rows (M, C), sorted by expert.
        counts: rows of each expert.
    """
    y, saved = rt.ops.expert_linear_fwd(x, *read_linear(params, name), counts=counts)
    if f"{name}.lora_A.weight" not in params:
        return y, saved
    lora_a, lora_b = (read_linear(params, f"{name}.{half}").weight for half in ("lora_A", "lora_B"))
    inner, down = rt.ops.expert_linear_fwd(x, lora_a, counts=counts)  # (M, R)
    correction, up = rt.ops.expert_linear_fwd(inner, lora_b, counts=counts)  # (M, N)
    return y + correction, AdaptedExpertsSaved(saved, down, up)


def expert_linear_layer_bwd(
    rt: Runtime, name: str, dy: Array, saved: ExpertLinearLayerSaved, grads: Gradients
) -> Array:
    """dx (M, C), from dy (M, N); this layer's gradients go to `grads`."""
    if isinstance(saved, AdaptedExpertsSaved):
        # correction = inner @ lora_B_e^T,  inner = x @ lora_A_e^T
        dinner, dlora_b, _ = rt.ops.expert_linear_bwd(dy, saved.up)
        dx, dlora_a, _ = rt.ops.expert_linear_bwd(dinner, saved.down)
        grads.add(f"{name}.lora_B.weight", dlora_b)
        grads.add(f"{name}.lora_A.weight", dlora_a)

        # y = x @ weight_e^T + bias_e, of which x alone is differentiated
        dx_base, _, _ = rt.ops.expert_linear_bwd(dy, saved.base, is_frozen=True)
        return dx + dx_base
    is_frozen = not (grads.wants(f"{name}.weight") or grads.wants(f"{name}.bias"))
    dx, dweight, dbias = rt.ops.expert_linear_bwd(dy, saved, is_frozen=is_frozen)
    grads.add(f"{name}.weight", dweight)
    grads.add(f"{name}.bias", dbias)
    return dx
