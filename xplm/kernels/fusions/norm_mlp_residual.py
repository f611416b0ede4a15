"""A block's feed-forward half, with its norms and its residual.

n = norm(x)
h = act(n Wgate^T) * n Wup^T                or without a gate act(n Wup^T)
y = residual + c norm(h Wdown^T)

Norms are of a kind of `xplm.kernels.parts.norms`; either may be left out.
"""

from collections.abc import Callable
from typing import Any

from xplm.kernels.gelu import gelu_fwd
from xplm.kernels.gelu_erf import gelu_erf_fwd
from xplm.kernels.linear import linear_fwd
from xplm.kernels.parts.norms import RMS, add_branch, apply_norm
from xplm.kernels.relu import relu_fwd
from xplm.kernels.relu2 import relu2_fwd
from xplm.kernels.swiglu import swiglu_fwd
from xplm.typing import Array, DType

ACTIVATIONS: dict[str, Callable[[Array], tuple[Array, Any]]] = {
    "gelu": gelu_fwd,
    "gelu_erf": gelu_erf_fwd,
    "relu": relu_fwd,
    "relu2": relu2_fwd,
}
"""Those that are an op by themselves; "silu" is one with its gate."""


def norm_mlp_residual(
    x: Array,
    residual: Array,
    norm: Array | None,
    gate_weight: Array | None,
    up_weight: Array,
    down_weight: Array,
    gate_bias: Array | None,
    up_bias: Array | None,
    down_bias: Array | None,
    output_norm: Array | None = None,
    *,
    activation: str = "silu",
    branch_scale: float = 1.0,
    norm_kind: str = RMS,
    eps: float,
    island: DType | None = None,
) -> Array:
    """x, residual (B, T, C); norms (C,); gate_weight, up_weight (F, C); down_weight (C, F)  ->  y (B, T, C) x.dtype

    The residual is x in a sequential block; in a parallel one x with the output of attention. Without a gate there is
    no gate_weight.
    """
    norms: dict[str, Any] = {"kind": norm_kind, "eps": eps, "island": island}
    n = apply_norm(x, norm, **norms)
    up, _ = linear_fwd(n, up_weight, up_bias)
    if gate_weight is None:
        hidden, _ = ACTIVATIONS[activation](up)
    else:
        gate, _ = linear_fwd(n, gate_weight, gate_bias)
        if activation == "silu":
            hidden, _ = swiglu_fwd(gate, up)
        else:
            hidden = ACTIVATIONS[activation](gate)[0] * up
    branch, _ = linear_fwd(hidden, down_weight, down_bias)
    return add_branch(residual, branch, output_norm, scale=branch_scale, **norms)
