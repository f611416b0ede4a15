"""A decoder block: a mixer of positions and an MLP, added to the residual stream, with norms before or after them.

    sequential    x = x + c m(mixer(norm(x)));  x = x + c f(mlp(mlp_norm(x)))
    parallel      x = x + c m(mixer(norm(x))) + c f(mlp(n)),  n = norm(x) or mlp_norm(x)

c scales both branches; m and f are norms of their outputs. Any of the four norms may be left out. Dropout acts on what
is added, c and all.

Gradient. A residual adds: what comes back goes both into the branch and past it. The branch gets it times c, then
through its own parts from the last to the first. A norm that two branches read gets the sum of what comes back through
them, and x the sum of what comes back through two norms of it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from xplm.gradients import Gradients
from xplm.kernels.dropout import DropoutSaved
from xplm.layers.context import Context
from xplm.layers.norm import (
    add_norm_layer_bwd,
    add_norm_layer_fwd,
    norm_layer_bwd,
    norm_layer_fwd,
    norm_specs,
)
from xplm.layers.table import LAYERS
from xplm.params import Init, ParamSpec
from xplm.precision import scaled
from xplm.runtime import Runtime
from xplm.specs import BlockSpec, NormSpec
from xplm.typing import Array, Params

Drop: TypeAlias = Callable[[str, Array], tuple[Array, DropoutSaved | None]]
"""Dropout under a name: (name, x) -> (y, DropoutSaved), or (x, None) where nothing is dropped."""

NORM, MIXER = "input_layernorm", "self_attn"
MLP_NORM, MLP = "post_attention_layernorm", "mlp"
MIXER_OUTPUT_NORM, MLP_OUTPUT_NORM = "post_self_attn_layernorm", "post_mlp_layernorm"


class BlockSaved(NamedTuple):
    """Of each part what its own backward pass needs; None for a part that is left out."""

    norm: Any  # of x
    mixer: Any  # of the mixer's layer
    mixer_output_norm: Any
    mixer_drop: DropoutSaved | None
    mlp_norm: Any
    mlp: Any  # of the MLP's layer
    mlp_output_norm: Any
    mlp_drop: DropoutSaved | None


def keep_all(name: str, x: Array) -> tuple[Array, None]:
    """The dropout that drops nothing."""
    return x, None


def block_name(layer: int) -> str:
    """Prefix of the parameters of a model's layer."""
    return f"model.layers.{layer}"


def block_specs(spec: BlockSpec, name: str, width: int, init: Init) -> list[ParamSpec]:
    """The parameters of a block on a residual stream of `width` features."""
    mixer, mlp = LAYERS[type(spec.mixer)], LAYERS[type(spec.mlp)]
    return [
        *_norm_specs(spec.norm, f"{name}.{NORM}", width),
        *mixer.specs(spec.mixer, f"{name}.{MIXER}", width, init),
        *_norm_specs(spec.mixer_output_norm, f"{name}.{MIXER_OUTPUT_NORM}", width),
        *_norm_specs(spec.mlp_norm, f"{name}.{MLP_NORM}", width),
        *mlp.specs(spec.mlp, f"{name}.{MLP}", width, init),
        *_norm_specs(spec.mlp_output_norm, f"{name}.{MLP_OUTPUT_NORM}", width),
    ]


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

    n, norm_saved = _norm_fwd(rt, spec.norm, params, f"{name}.{NORM}", x)
    y, mixer_saved = mixer.fwd(rt, spec.mixer, params, f"{name}.{MIXER}", n, context)
    y, mixer_output = _norm_fwd(
        rt, spec.mixer_output_norm, params, f"{name}.{MIXER_OUTPUT_NORM}", y
    )
    y, mixer_drop = drop(f"{name}.{MIXER}", scaled(y, spec.branch_scale))

    mlp_norm_saved, norm_name = None, f"{name}.{MLP_NORM}"
    if spec.is_parallel:
        if spec.mlp_norm is not None:
            n, mlp_norm_saved = norm_layer_fwd(rt, spec.mlp_norm, params, norm_name, x)
        x = x + y
    elif spec.mlp_norm is not None:
        x, n, mlp_norm_saved = add_norm_layer_fwd(rt, spec.mlp_norm, params, norm_name, x, y)
    else:
        x = n = x + y
    y, mlp_saved = mlp.fwd(rt, spec.mlp, params, f"{name}.{MLP}", n, context)
    y, mlp_output = _norm_fwd(rt, spec.mlp_output_norm, params, f"{name}.{MLP_OUTPUT_NORM}", y)
    y, mlp_drop = drop(f"{name}.{MLP}", scaled(y, spec.branch_scale))
    x = x + y
    return x, BlockSaved(
        norm_saved,
        mixer_saved,
        mixer_output,
        mixer_drop,
        mlp_norm_saved,
        mlp_saved,
        mlp_output,
        mlp_drop,
    )


def mlp_half_fwd(
    rt: Runtime,
    spec: BlockSpec,
    params: Params,
    layer: int,
    x: Array,
    residual: Array,
    context: Context,
) -> Array:
    """A block's second half, as decoding takes it: residual + c f(mlp(n)) with the norm n of x that its MLP reads.

    Arguments as `block_fwd`'s; x, residual (B, T, C): the same in a sequential block.
    """
    name = block_name(layer)
    reads_norm = spec.is_parallel and spec.mlp_norm is None
    norm, place = (spec.norm, NORM) if reads_norm else (spec.mlp_norm, MLP_NORM)
    n, _ = _norm_fwd(rt, norm, params, f"{name}.{place}", x)
    y, _ = LAYERS[type(spec.mlp)].fwd(rt, spec.mlp, params, f"{name}.{MLP}", n, context)
    y, _ = _norm_fwd(rt, spec.mlp_output_norm, params, f"{name}.{MLP_OUTPUT_NORM}", y)
    return residual + scaled(y, spec.branch_scale)


def block_bwd(
    rt: Runtime, spec: BlockSpec, layer: int, dx: Array, saved: BlockSaved, grads: Gradients
) -> Array:
    """dx (B, T, C) before the block, from dx (B, T, C) after it; gradients of parameters go to `grads`."""
    name = block_name(layer)
    mixer, mlp = LAYERS[type(spec.mixer)], LAYERS[type(spec.mlp)]

    # x = x + c f(mlp(n))
    dz = undrop(rt, dx, saved.mlp_drop)
    dz = scaled(dz, spec.branch_scale)
    output_name = f"{name}.{MLP_OUTPUT_NORM}"
    dz = _norm_bwd(rt, spec.mlp_output_norm, output_name, dz, saved.mlp_output_norm, grads)
    dn_mlp = mlp.bwd(rt, spec.mlp, f"{name}.{MLP}", dz, saved.mlp, grads)

    # n = mlp_norm(x), of what the mixer has added to
    norm_name = f"{name}.{MLP_NORM}"
    if not spec.is_parallel:
        dx = _past_and_through(rt, spec.mlp_norm, norm_name, dx, dn_mlp, saved.mlp_norm, grads)

    # x = x + c m(mixer(norm(x)))
    dy = undrop(rt, dx, saved.mixer_drop)
    dy = scaled(dy, spec.branch_scale)
    output_name = f"{name}.{MIXER_OUTPUT_NORM}"
    dy = _norm_bwd(rt, spec.mixer_output_norm, output_name, dy, saved.mixer_output_norm, grads)
    dn = mixer.bwd(rt, spec.mixer, f"{name}.{MIXER}", dy, saved.mixer, grads)

    # n = norm(x), which a parallel MLP reads too, or mlp_norm(x)
    if spec.is_parallel and spec.mlp_norm is None:
        dn = dn + dn_mlp
    elif spec.is_parallel:
        dx = _past_and_through(rt, spec.mlp_norm, norm_name, dx, dn_mlp, saved.mlp_norm, grads)
    return _past_and_through(rt, spec.norm, f"{name}.{NORM}", dx, dn, saved.norm, grads)


def undrop(rt: Runtime, dy: Array, saved: DropoutSaved | None) -> Array:
    """The gradient through a `Drop`."""
    return dy if saved is None else rt.ops.dropout_bwd(dy, saved)[0]


def _norm_specs(spec: NormSpec | None, name: str, width: int) -> list[ParamSpec]:
    return [] if spec is None else norm_specs(spec, name, width)


def _norm_fwd(
    rt: Runtime, spec: NormSpec | None, params: Params, name: str, x: Array
) -> tuple[Array, Any]:
    """The norm of x (..., C), or x where it is left out."""
    return (x, None) if spec is None else norm_layer_fwd(rt, spec, params, name, x)


def _norm_bwd(
    rt: Runtime, spec: NormSpec | None, name: str, dy: Array, saved: Any, grads: Gradients
) -> Array:
    """The gradient through `_norm_fwd`."""
    return dy if spec is None else norm_layer_bwd(rt, spec, name, dy, saved, grads)


def _past_and_through(
    rt: Runtime,
    spec: NormSpec | None,
    name: str,
    dx: Array,
    dn: Array,
    saved: Any,
    grads: Gradients,
) -> Array:
    """dx of an x that goes past a norm, with gradient dx, and through it, with dn."""
    return dx + dn if spec is None else add_norm_layer_bwd(rt, spec, name, dx, dn, saved, grads)
