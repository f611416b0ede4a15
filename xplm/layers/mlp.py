"""The feed-forward half of a block.

y = down(silu(gate(x)) * up(x))
"""

from typing import Any, NamedTuple

from xplm.runtime import Runtime
from xplm.typing import Array, Params


class MLPSaved(NamedTuple):
    gate: Any  # LinearSaved
    up: Any  # LinearSaved
    swiglu: Any  # SwigluSaved
    down: Any  # LinearSaved


def mlp_fwd(rt: Runtime, params: Params, name: str, x: Array) -> tuple[Array, MLPSaved]:
    """y = down(swiglu(gate(x), up(x))).   x (B, T, C)  ->  y (B, T, C)

    Args:
        rt: backend, kernels and dtypes.
        params: the model's parameters.
        name: prefix of this layer's parameters, such as "model.layers.0.mlp".
        x: input (B, T, C).
    """

    def linear(part: str, rows: Array) -> tuple[Array, Any]:
        weight = params[f"{name}.{part}.weight"]
        return rt.ops.linear_fwd(rows, weight, params.get(f"{name}.{part}.bias"))

    gate, gate_saved = linear("gate_proj", x)  # (B, T, F)
    up, up_saved = linear("up_proj", x)  # (B, T, F)
    hidden, swiglu_saved = rt.ops.swiglu_fwd(gate, up)  # (B, T, F)
    y, down_saved = linear("down_proj", hidden)  # (B, T, C)
    return y, MLPSaved(gate_saved, up_saved, swiglu_saved, down_saved)
