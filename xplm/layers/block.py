"""A decoder block: a mixer of positions and an MLP, each behind a norm and added to the residual stream.

    sequential    x = x + mixer(norm(x));  x = x + mlp(norm(x))
    parallel      x = x + mixer(n) + mlp(n),  n = norm(x)

Gradient. A residual adds: what comes back goes both into the branch and past it. A norm that two branches read gets the
sum of what comes back through them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from xplm.gradients import Gradients
from xplm.kernels.dropout import DropoutSaved
from xplm.layers.context import Context
from xplm.layers.norm import (
    add_norm_layer_bwd,
    add_norm_layer_fwd,
    norm_layer_fwd,
    norm_specs,
)
from xplm.layers.table import LAYERS
from xplm.params import Init, ParamSpec
from xplm.runtime import Runtime
from xplm.specs import BlockSpec
from xplm.typing import Array, Params

Drop: TypeAlias = Callable[[str, Array], tuple[Array, DropoutSaved | None]]
"""Dropout under a name: (name, x) -> (y, DropoutSaved), or (x, None) where nothing is dropped."""

NORM, MIXER = "input_layernorm", "self_attn"
MLP_NORM, MLP = "post_attention_layernorm", "mlp"


class BlockSaved(NamedTuple):
    norm: Any  # of the first norm
    mixer: Any  # of the mixer's layer
    mixer_drop: DropoutSaved | None
    mlp_norm: Any  # of the second norm; None where mixer and MLP are parallel
    mlp: Any  # of the MLP's layer
    mlp_drop: DropoutSaved | None


def keep_all(name: str, x: Array) -> tuple[Array, None]:
    """The dropout that drops nothing."""
    return x, None


def block_name(layer: int) -> str:
    """Prefix of the parameters of a model's layer."""
    return f"model.layers.{layer}"


def block_specs(spec: BlockSpec, name: str, width: int, init: Init) -> list[ParamSpec]:
    """The parameters of a block on a residual stream of `width` features."""
    specs = norm_specs(spec.norm, f"{name}.{NORM}", width)
    specs += LAYERS[type(spec.mixer)].specs(spec.mixer, f"{name}.{MIXER}", width, init)
    if spec.mlp_norm is not None:
        specs += norm_specs(spec.mlp_norm, f"{name}.{MLP_NORM}", width)
    return specs + LAYERS[type(spec.mlp)].specs(spec.mlp, f"{name}.{MLP}", width, init)


def block_fwd(
    rt: Runtime,
    spec: BlockSpec,
    params: Params,
    layer: int,
    x: Array,
    context: Context,
    drop: Drop = keep_all,
) -> tuple[Array, BlockSaved]:
    """One block.   x (B, T, C)  ->  y (B, T, C)

    Args:
        rt: backend, kernels and dtypes.
        spec: its parts.
        params: the model's parameters.
        layer: the block's number, from 0.
        x: the residual stream (B, T, C).
        context: tables, mask and cache of this forward pass.
        drop: dropout of both branches.
    """
    name = block_name(layer)
    mixer, mlp = LAYERS[type(spec.mixer)], LAYERS[type(spec.mlp)]
    context = context._replace(layer=layer)

    y: Array | None
    n, norm_saved = norm_layer_fwd(rt, spec.norm, params, f"{name}.{NORM}", x)
    y, mixer_saved = mixer.fwd(rt, spec.mixer, params, f"{name}.{MIXER}", n, context)
    y, mixer_drop = drop(f"{name}.{MIXER}", y)

    mlp_norm_saved = None
    if spec.mlp_norm is None:
        x = x + y
    else:
        norm_name = f"{name}.{MLP_NORM}"
        x, n, mlp_norm_saved = add_norm_layer_fwd(rt, spec.mlp_norm, params, norm_name, x, y)
    y, mlp_saved = mlp.fwd(rt, spec.mlp, params, f"{name}.{MLP}", n, context)
    y, mlp_drop = drop(f"{name}.{MLP}", y)
    x = x + y
    return x, BlockSaved(norm_saved, mixer_saved, mixer_drop, mlp_norm_saved, mlp_saved, mlp_drop)


def block_bwd(
    rt: Runtime, spec: BlockSpec, layer: int, dx: Array, saved: BlockSaved, grads: Gradients
) -> Array:
    """dx (B, T, C) before the block, from dx (B, T, C) after it; gradients of parameters go to `grads`."""
    name = block_name(layer)
    mixer, mlp = LAYERS[type(spec.mixer)], LAYERS[type(spec.mlp)]

    # x = x + drop(mlp(n))
    dz = undrop(rt, dx, saved.mlp_drop)
    dn_mlp = mlp.bwd(rt, spec.mlp, f"{name}.{MLP}", dz, saved.mlp, grads)

    # n = norm(x + drop(mixer(norm(x))))
    if spec.mlp_norm is not None:
        norm_name = f"{name}.{MLP_NORM}"
        dx = add_norm_layer_bwd(rt, spec.mlp_norm, norm_name, dx, dn_mlp, saved.mlp_norm, grads)
    dy = undrop(rt, dx, saved.mixer_drop)
    dn = mixer.bwd(rt, spec.mixer, f"{name}.{MIXER}", dy, saved.mixer, grads)

    # n = norm(x), which the MLP reads too where the two are parallel
    if spec.is_parallel:
        dn = dn + dn_mlp
    return add_norm_layer_bwd(rt, spec.norm, f"{name}.{NORM}", dx, dn, saved.norm, grads)


def undrop(rt: Runtime, dy: Array, saved: DropoutSaved | None) -> Array:
    """The gradient through a `Drop`."""
    return dy if saved is None else rt.ops.dropout_bwd(dy, saved)[0]
