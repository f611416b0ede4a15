"""Routed experts: a router chooses some gated MLPs for each token, whose outputs are added up by their weights.

    logits  = x Wr^T                                      plus a bias where the router has one
    chosen, w = the router's, of the logits               (N, k) each
    h_m     = act(x_n Wg_e^T, x_n Wu_e^T)                 for each row m: token n at its chosen expert e
    y_n     = sum over its rows of w_m Wd_e h_m
    y       = y + shared(x)                               or y + sigmoid(x Ws^T) * shared(x), where there is one

Rows are sorted by expert, so that each expert is one product. Its weights are stacked: (E, F, C) and (E, C, F).

Gradient. x is read by the router, by k rows, and by the shared MLP and its gate: what comes back adds up.

Numerics. Router and gate run in the softmax island: bfloat16 logits would choose other experts.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from xplm.gradients import Gradients
from xplm.kernels.expert_sum import ExpertSumSaved
from xplm.kernels.router import RouterSaved, choose_experts
from xplm.kernels.sigmoid_gate import SigmoidGateSaved
from xplm.kernels.softmax import SoftmaxSaved
from xplm.layers.context import AuxiliaryLoss, Context
from xplm.layers.expert_linear import (
    ExpertLinearLayerSaved,
    expert_linear_layer_bwd,
    expert_linear_layer_fwd,
)
from xplm.layers.linear import (
    LinearLayerSaved,
    linear_layer_bwd,
    linear_layer_fwd,
    linear_specs,
)
from xplm.layers.mlp import MLPSaved, gated_bwd, gated_fwd, mlp_bwd, mlp_fwd, mlp_specs
from xplm.params import Init, ParamSpec
from xplm.precision import cast, wide_dtype
from xplm.runtime import Runtime
from xplm.specs import ExpertsSpec
from xplm.typing import Array, Params

ROUTER, EXPERTS = "gate", "experts"
CORRECTION = f"{ROUTER}.e_score_correction_bias"
SHARED, SHARED_GATE = "shared_experts", "shared_expert_gate"


class BalanceSaved(NamedTuple):
    scores: SoftmaxSaved
    loss: AuxiliaryLoss
    n_tokens: int


class RoutingSaved(NamedTuple):
    logits: LinearLayerSaved
    router: RouterSaved
    balance: BalanceSaved | None  # None where the pass has no loss of it


class RowsSaved(NamedTuple):
    gate: ExpertLinearLayerSaved
    up: ExpertLinearLayerSaved
    activation: Any  # of `gated_fwd`, or ClampedSwigluSaved
    down: ExpertLinearLayerSaved


class SharedSaved(NamedTuple):
    mlp: MLPSaved
    projection: LinearLayerSaved | None  # None without a gate
    gate: SigmoidGateSaved | None


class ExpertsSaved(NamedTuple):
    routing: RoutingSaved
    places: Array  # (N, k), integer: of each token's rows
    rows: RowsSaved
    sum: ExpertSumSaved
    shared: SharedSaved | None  # None where nothing is shared


def experts_specs(spec: ExpertsSpec, name: str, width: int, init: Init) -> list[ParamSpec]:
    """The parameters of a layer between rows of `width` features."""
    E, F, C, router = spec.num_experts, spec.intermediate_size, width, spec.router
    specs = linear_specs(f"{name}.{ROUTER}", E, C, bias=router.bias, std=init.std)
    if router.has_correction:
        specs.append(ParamSpec(f"{name}.{CORRECTION}", (E,), "zeros"))
    for part, outputs, inputs, std in (
        ("gate_proj", F, C, init.std),
        ("up_proj", F, C, init.std),
        ("down_proj", C, F, init.residual_std),
    ):
        stacked = f"{name}.{EXPERTS}.{part}"
        specs.append(ParamSpec(f"{stacked}.weight", (E, outputs, inputs), "normal", std))
        if spec.bias:
            specs.append(ParamSpec(f"{stacked}.bias", (E, outputs), "zeros"))
    if spec.shared is not None:
        specs += mlp_specs(spec.shared, f"{name}.{SHARED}", C, init)
    if spec.is_shared_gated:
        specs += linear_specs(f"{name}.{SHARED_GATE}", 1, C, bias=False, std=init.std)
    return specs


def experts_fwd(
    rt: Runtime, spec: ExpertsSpec, params: Params, name: str, x: Array, context: Context
) -> tuple[Array, ExpertsSaved]:
    """y = sum of the chosen experts, plus what is shared.   x (B, T, C)  ->  y (B, T, C)

    Args:
        rt: backend, kernels and dtypes.
        spec: experts and router.
        params: the model's parameters.
        name: prefix of this layer's parameters, such as "model.layers.0.mlp".
        x: input (B, T, C), normalised.
        context: of this forward pass; its loss takes the router's.
    """
    xp = rt.backend.xp
    tokens = xp.reshape(x, (-1, x.shape[-1]))  # (N, C)
    chosen, weights, routing = _route(rt, spec, params, name, tokens, context)  # (N, k)

    owners, places, counts = _sort_by_expert(rt, spec, chosen)
    rows = xp.take(tokens, owners, axis=0)  # (N k, C)
    rows, rows_saved = _rows_fwd(rt, spec, params, f"{name}.{EXPERTS}", rows, counts)
    y, sum_saved = rt.ops.expert_sum_fwd(rows, places, weights)  # (N, C)

    shared_saved = None
    if spec.shared is not None:
        shared, shared_saved = _shared_fwd(rt, spec, params, name, tokens, context)
        y = y + shared
    return xp.reshape(y, x.shape), ExpertsSaved(
        routing, places, rows_saved, sum_saved, shared_saved
    )


def experts_bwd(
    rt: Runtime, spec: ExpertsSpec, name: str, dy: Array, saved: ExpertsSaved, grads: Gradients
) -> Array:
    """dx (B, T, C), from dy (B, T, C); gradients of parameters go to `grads`."""
    xp = rt.backend.xp
    dyr = xp.reshape(dy, (-1, dy.shape[-1]))  # (N, C)

    # y = sum_j w_j rows[places_j],  rows = expert(x[owners]): a token has k rows
    drows, _, dweights = rt.ops.expert_sum_bwd(dyr, saved.sum)
    assert dweights is not None
    drows = _rows_bwd(rt, spec, f"{name}.{EXPERTS}", drows, saved.rows, grads)
    dx, _ = rt.ops.expert_sum_fwd(drows, saved.places)  # (N, C)

    # w = router(x)
    dx = dx + _route_bwd(rt, spec, name, dweights, dx, saved.routing, grads)

    # y = y + shared(x)
    if saved.shared is not None:
        dx = dx + _shared_bwd(rt, spec, name, dyr, saved.shared, grads)
    return xp.reshape(dx, dy.shape)


def _route(
    rt: Runtime, spec: ExpertsSpec, params: Params, name: str, x: Array, context: Context
) -> tuple[Array, Array, RoutingSaved]:
    """The chosen experts and their weights.   x (N, C)  ->  chosen (N, k) integer, w (N, k) softmax island"""
    router, wide = spec.router, cast(x, rt.dtype.softmax)
    logits, logits_saved = linear_layer_fwd(rt, params, f"{name}.{ROUTER}", wide)  # (N, E)
    chosen = choose_experts(
        logits,
        params.get(f"{name}.{CORRECTION}"),
        k=spec.num_experts_per_tok,
        scores=router.scores,
        num_groups=router.num_groups,
        kept_groups=router.kept_groups,
        group_score=router.group_score,
    )
    weights, router_saved = rt.ops.router_fwd(
        logits,
        chosen,
        scores=router.scores,
        is_normalised=router.is_normalised,
        factor=router.factor,
        island=rt.dtype.softmax,
    )
    balance = _balance_fwd(rt, spec, logits, chosen, context)
    return chosen, weights, RoutingSaved(logits_saved, router_saved, balance)


def _route_bwd(
    rt: Runtime,
    spec: ExpertsSpec,
    name: str,
    dweights: Array,
    like: Array,
    saved: RoutingSaved,
    grads: Gradients,
) -> Array:
    """dx (N, C) in the dtype of `like`, from dweights (N, k)."""
    dlogits, _ = rt.ops.router_bwd(dweights, saved.router)
    if saved.balance is not None:
        dlogits = dlogits + _balance_bwd(rt, dlogits, saved.balance)
    if spec.router.has_correction:  # the choice is piecewise constant
        wide = wide_dtype(dlogits, rt.backend.xp)
        grads.add(f"{name}.{CORRECTION}", rt.backend.xp.zeros_like(dlogits[0, :], dtype=wide))
    dx = linear_layer_bwd(rt, f"{name}.{ROUTER}", dlogits, saved.logits, grads)
    return cast(dx, like.dtype)


def _rows_fwd(
    rt: Runtime, spec: ExpertsSpec, params: Params, name: str, x: Array, counts: Sequence[int]
) -> tuple[Array, RowsSaved]:
    """Each row through its expert.   x (N k, C)  ->  y (N k, C)"""

    def linear(part: str, rows: Array) -> tuple[Array, ExpertLinearLayerSaved]:
        return expert_linear_layer_fwd(rt, params, f"{name}.{part}", rows, counts)

    gate, gate_saved = linear("gate_proj", x)  # (N k, F)
    up, up_saved = linear("up_proj", x)  # (N k, F)
    activation_saved: Any
    if spec.clamp is None:
        hidden, activation_saved = gated_fwd(rt, spec.activation, gate, up)  # (N k, F)
    else:
        alpha, limit = spec.clamp.alpha, spec.clamp.limit
        hidden, activation_saved = rt.ops.clamped_swiglu_fwd(gate, up, alpha=alpha, limit=limit)
    y, down_saved = linear("down_proj", hidden)
    return y, RowsSaved(gate_saved, up_saved, activation_saved, down_saved)


def _rows_bwd(
    rt: Runtime, spec: ExpertsSpec, name: str, dy: Array, saved: RowsSaved, grads: Gradients
) -> Array:
    """dx (N k, C), from dy (N k, C)."""

    def linear(part: str, drows: Array, of_part: ExpertLinearLayerSaved) -> Array:
        return expert_linear_layer_bwd(rt, f"{name}.{part}", drows, of_part, grads)

    # y = Wd_e act(Wg_e x, Wu_e x): x is read twice
    dhidden = linear("down_proj", dy, saved.down)
    if spec.clamp is None:
        dgate, dup = gated_bwd(rt, spec.activation, dhidden, saved.activation)
    else:
        dgate, dup = rt.ops.clamped_swiglu_bwd(dhidden, saved.activation)
    return linear("up_proj", dup, saved.up) + linear("gate_proj", dgate, saved.gate)


def _shared_fwd(
    rt: Runtime, spec: ExpertsSpec, params: Params, name: str, x: Array, context: Context
) -> tuple[Array, SharedSaved]:
    """The MLP that every token takes, gated or not.   x (N, C)  ->  y (N, C)"""
    assert spec.shared is not None
    y, mlp_saved = mlp_fwd(rt, spec.shared, params, f"{name}.{SHARED}", x, context)
    if not spec.is_shared_gated:
        return y, SharedSaved(mlp_saved, None, None)
    wide = cast(x, rt.dtype.softmax)
    z, z_saved = linear_layer_fwd(rt, params, f"{name}.{SHARED_GATE}", wide)  # (N, 1)
    y, gate_saved = rt.ops.sigmoid_gate_fwd(z, y)
    return y, SharedSaved(mlp_saved, z_saved, gate_saved)


def _shared_bwd(
    rt: Runtime, spec: ExpertsSpec, name: str, dy: Array, saved: SharedSaved, grads: Gradients
) -> Array:
    """dx (N, C), from dy (N, C)."""
    assert spec.shared is not None
    if saved.gate is None or saved.projection is None:
        return mlp_bwd(rt, spec.shared, f"{name}.{SHARED}", dy, saved.mlp, grads)

    # y = sigmoid(x Ws^T) * mlp(x)
    dz, dmlp = rt.ops.sigmoid_gate_bwd(dy, saved.gate)
    dx = linear_layer_bwd(rt, f"{name}.{SHARED_GATE}", dz, saved.projection, grads)
    of_mlp = mlp_bwd(rt, spec.shared, f"{name}.{SHARED}", dmlp, saved.mlp, grads)
    return of_mlp + cast(dx, of_mlp.dtype)


def _sort_by_expert(
    rt: Runtime, spec: ExpertsSpec, chosen: Array
) -> tuple[Array, Array, tuple[int, ...]]:
    """Rows in the order of their experts: tokens (N k,), each token's rows (N, k), and rows of each expert."""
    xp, k = rt.backend.xp, spec.num_experts_per_tok
    flat = xp.reshape(chosen, (-1,))
    order = xp.argsort(flat, stable=True)
    places = xp.reshape(xp.argsort(order), chosen.shape)
    return order // k, places, tuple(_count(rt, spec, chosen).tolist())


def _count(rt: Runtime, spec: ExpertsSpec, chosen: Array) -> np.ndarray:
    """How often each expert is chosen (E,), on the host: it decides the shapes of products."""
    return np.bincount(rt.backend.to_host(chosen).reshape(-1), minlength=spec.num_experts)


def _balance_fwd(
    rt: Runtime, spec: ExpertsSpec, logits: Array, chosen: Array, context: Context
) -> BalanceSaved | None:
    """Add the layer's part to the load-balancing loss of the pass."""
    if context.auxiliary is None or not spec.router.balance:
        return None
    xp, n_tokens = rt.backend.xp, logits.shape[0]
    scores, saved = rt.ops.softmax_fwd(logits, island=rt.dtype.softmax)
    mean = xp.sum(cast(scores, wide_dtype(scores, xp)), axis=0) / n_tokens
    load = _count(rt, spec, chosen) / n_tokens
    context.auxiliary.balance.add(context.layer, load, mean, spec.router.balance)
    return BalanceSaved(saved, context.auxiliary, n_tokens)


def _balance_bwd(rt: Runtime, dlogits: Array, saved: BalanceSaved) -> Array:
    """dlogits (N, E) of the load-balancing loss."""
    xp = rt.backend.xp
    # mean = sum over n of softmax(logits_n) / N
    dmean = saved.loss.gradient * saved.loss.balance.dmean(rt)  # (E,)
    dscores = xp.broadcast_to(cast(dmean / saved.n_tokens, dlogits.dtype), dlogits.shape)
    return rt.ops.softmax_bwd(dscores, saved.scores)[0]
