"""Causal attention over latents: keys and values of all heads are made of one narrow vector a position.

q      = Wqb norm(Wqa x), or Wq x           cut into heads of N + P features
c, p   = Wkva x                             R features, and P
c      = norm(c)
q2, p  = rope(q2), rope(p)                  q2: the last P features of each head of q
k1, v  = Wkvb c                             cut into heads of N + Dv features
k      = k1, p                              p is part of every head's key
y      = attention(q, k, v) Wo^T

A cache holds c and p, R + P numbers a position, where keys and values are H (N + P + Dv). There are two ways to attend
to it, for the scores of a head with the rows A (N, R) and B (Dv, R) of Wkvb are

    q1 . (A c) + q2 . p  =  (q1 A) . c + q2 . p          and  sum_s P_s (B c_s)  =  B (sum_s P_s c_s)

expanded    k and v of all slots are made again, R H (N + Dv) S products, for which T queries pay together
absorbed    c and p are keys, c is the values, and all heads share them: one op, `xplm.kernels.fusions`

Gradient. p is read by every head, so what comes back through them adds up; the sum is pairwise, in an order of its own,
so that it has the same bits on every library. x is read by two projections, whose gradients add up too.

Source: DeepSeek-AI, "DeepSeek-V2", arXiv:2405.04434, section 2.1 and appendix C.
"""

from typing import Any, NamedTuple

from xplm.gradients import Gradients
from xplm.kernels.attention import AttentionSaved
from xplm.kernels.rope import RopeSaved
from xplm.layers.attention import cut_heads, join_heads
from xplm.layers.context import Context
from xplm.layers.linear import (
    LinearLayerSaved,
    linear_layer_bwd,
    linear_layer_fwd,
    linear_specs,
    read_linear,
)
from xplm.layers.norm import norm_layer_bwd, norm_layer_fwd, norm_specs
from xplm.params import Init, ParamSpec
from xplm.precision import cast, wide_dtype
from xplm.runtime import Runtime
from xplm.specs import LatentAttentionSpec
from xplm.typing import Array, Params
from xplm.views import KeyView, LatentView, gather

KV_A, KV_B = "kv_a_proj_with_mqa", "kv_b_proj"


class QuerySaved(NamedTuple):
    a: LinearLayerSaved | None  # of the latent; None where q is one projection
    norm: Any  # of the latent's norm, likewise
    b: LinearLayerSaved
    rope: RopeSaved


class LatentAttentionSaved(NamedTuple):
    q: QuerySaved
    kv_a: LinearLayerSaved
    kv_norm: Any
    rope_k: RopeSaved
    kv_b: LinearLayerSaved | None  # None over a cache
    attention: AttentionSaved | None  # likewise
    o: LinearLayerSaved


def latent_attention_specs(
    spec: LatentAttentionSpec, name: str, width: int, init: Init
) -> list[ParamSpec]:
    """The parameters of a layer between rows of `width` features."""
    H, R, std = spec.num_heads, spec.kv_rank, init.std
    D, Dv, P = spec.head_dim, spec.value_dim, spec.rope.dim
    if spec.q_rank is None:
        specs = linear_specs(f"{name}.q_proj", H * D, width, bias=False, std=std)
    else:
        specs = [
            *linear_specs(f"{name}.q_a_proj", spec.q_rank, width, bias=spec.bias, std=std),
            *norm_specs(spec.norm, f"{name}.q_a_layernorm", spec.q_rank),
            *linear_specs(f"{name}.q_b_proj", H * D, spec.q_rank, bias=False, std=std),
        ]
    return [
        *specs,
        *linear_specs(f"{name}.{KV_A}", R + P, width, bias=spec.bias, std=std),
        *norm_specs(spec.norm, f"{name}.kv_a_layernorm", R),
        *linear_specs(f"{name}.{KV_B}", H * (spec.nope_dim + Dv), R, bias=False, std=std),
        *linear_specs(f"{name}.o_proj", width, H * Dv, bias=spec.bias, std=init.residual_std),
    ]


def latent_attention_layer_fwd(
    rt: Runtime, spec: LatentAttentionSpec, params: Params, name: str, x: Array, context: Context
) -> tuple[Array, LatentAttentionSaved]:
    """x (B, T, C)  ->  y (B, T, C)

    Args:
        rt: backend, kernels and dtypes.
        spec: ranks, heads, positions and scale.
        params: the model's parameters.
        name: prefix of this layer's parameters, such as "model.layers.0.self_attn".
        x: input (B, T, C), normalised.
        context: tables, mask and cache of this forward pass.
    """
    xp = rt.backend.xp
    R = spec.kv_rank
    q, q_saved = _queries(rt, spec, params, name, x, context)  # (B, H, T, N + P)

    both, a_saved = linear_layer_fwd(rt, params, f"{name}.{KV_A}", x)  # (B, T, R + P)
    c, norm_saved = norm_layer_fwd(
        rt, spec.norm, params, f"{name}.kv_a_layernorm", both[..., :R]
    )  # (B, T, R)
    p, rope_saved = _rotated(rt, spec, both[:, None, :, R:], context)  # (B, 1, T, P)

    b_saved = attention_saved = None
    if context.cache is not None:
        assert context.rows is not None
        latents = xp.concat([c[:, None, :, :], p], axis=-1)  # (B, 1, T, R + P)
        view = context.cache.extend_latents(context.layer, latents, context.rows)
        y = _attend_to_cache(rt, spec, params, name, q, view)  # (B, H, T, Dv)
    else:
        k, v, b_saved = _expand(rt, spec, params, name, c, p)
        y, attention_saved = rt.ops.attention_fwd(
            q, k, v, start=0, scale=spec.scale, island=rt.dtype.softmax
        )  # (B, H, T, Dv)

    y, o_saved = linear_layer_fwd(rt, params, f"{name}.o_proj", join_heads(rt, y))  # (B, T, C)
    return y, LatentAttentionSaved(
        q_saved, a_saved, norm_saved, rope_saved, b_saved, attention_saved, o_saved
    )


def latent_attention_layer_bwd(
    rt: Runtime,
    spec: LatentAttentionSpec,
    name: str,
    dy: Array,
    saved: LatentAttentionSaved,
    grads: Gradients,
) -> Array:
    """dx (B, T, C), from dy (B, T, C); gradients of parameters go to `grads`. The forward pass had no cache."""
    xp = rt.backend.xp
    N = spec.nope_dim

    # y = joined heads Wo^T
    dheads = linear_layer_bwd(rt, f"{name}.o_proj", dy, saved.o, grads)  # (B, T, H Dv)
    dheads = cut_heads(rt, dheads, spec.value_dim)

    # heads = attention(q, k, v)
    assert saved.attention is not None
    assert saved.kv_b is not None
    dq, dk, dv, _, _ = rt.ops.attention_bwd(dheads, saved.attention)  # (B, H, T, N + P or Dv)

    # k = k1, rope(p), the same p for every head;  k1, v = Wkvb c
    dp, _, _ = rt.ops.rope_bwd(_sum_over_heads(rt, dk[..., N:]), saved.rope_k)  # (B, 1, T, P)
    dkv = xp.concat([dk[..., :N], dv], axis=-1)  # (B, H, T, N + Dv)
    dc = linear_layer_bwd(rt, f"{name}.{KV_B}", join_heads(rt, dkv), saved.kv_b, grads)  # (B, T, R)

    # norm(c), p = Wkva x
    dc = norm_layer_bwd(rt, spec.norm, f"{name}.kv_a_layernorm", dc, saved.kv_norm, grads)
    dboth = xp.concat([dc, dp[:, 0, :, :]], axis=-1)
    dx = linear_layer_bwd(rt, f"{name}.{KV_A}", dboth, saved.kv_a, grads)
    return dx + _queries_back(rt, spec, name, dq, saved.q, grads)


def _queries(
    rt: Runtime, spec: LatentAttentionSpec, params: Params, name: str, x: Array, context: Context
) -> tuple[Array, QuerySaved]:
    """q (B, H, T, N + P), rotated, of x (B, T, C)."""
    a_saved = norm_saved = None
    if spec.q_rank is None:
        q, b_saved = linear_layer_fwd(rt, params, f"{name}.q_proj", x)  # (B, T, H (N + P))
    else:
        a, a_saved = linear_layer_fwd(rt, params, f"{name}.q_a_proj", x)  # (B, T, Q)
        a, norm_saved = norm_layer_fwd(rt, spec.norm, params, f"{name}.q_a_layernorm", a)
        q, b_saved = linear_layer_fwd(rt, params, f"{name}.q_b_proj", a)
    q = cut_heads(rt, q, spec.head_dim)
    q1, q2 = q[..., : spec.nope_dim], q[..., spec.nope_dim :]
    q2, rope_saved = _rotated(rt, spec, q2, context)
    q = rt.backend.xp.concat([q1, q2], axis=-1)
    return q, QuerySaved(a_saved, norm_saved, b_saved, rope_saved)


def _queries_back(
    rt: Runtime,
    spec: LatentAttentionSpec,
    name: str,
    dq: Array,
    saved: QuerySaved,
    grads: Gradients,
) -> Array:
    """dx (B, T, C), from dq (B, H, T, N + P)."""
    # q = q1, rope(q2)
    dq2, _, _ = rt.ops.rope_bwd(dq[..., spec.nope_dim :], saved.rope)
    dq = rt.backend.xp.concat([dq[..., : spec.nope_dim], dq2], axis=-1)
    dq = join_heads(rt, dq)  # (B, T, H (N + P))

    # q = Wq x, or Wqb norm(Wqa x)
    if saved.a is None:
        return linear_layer_bwd(rt, f"{name}.q_proj", dq, saved.b, grads)
    da = linear_layer_bwd(rt, f"{name}.q_b_proj", dq, saved.b, grads)
    da = norm_layer_bwd(rt, spec.norm, f"{name}.q_a_layernorm", da, saved.norm, grads)
    return linear_layer_bwd(rt, f"{name}.q_a_proj", da, saved.a, grads)


def _rotated(
    rt: Runtime, spec: LatentAttentionSpec, x: Array, context: Context
) -> tuple[Array, RopeSaved]:
    """x (B, H or 1, T, P), all of it turned."""
    cos, sin = context.ropes[spec.rope]
    return rt.ops.rope_fwd(x, cos, sin, pairs=spec.rope.pairs)


def _expand(
    rt: Runtime, spec: LatentAttentionSpec, params: Params, name: str, c: Array, p: Array
) -> tuple[Array, Array, LinearLayerSaved]:
    """k (B, H, S, N + P) and v (B, H, S, Dv) of latents c (B, S, R) and rotated parts p (B, 1, S, P)."""
    xp = rt.backend.xp
    kv, saved = linear_layer_fwd(rt, params, f"{name}.{KV_B}", c)  # (B, S, H (N + Dv))
    kv = cut_heads(rt, kv, spec.nope_dim + spec.value_dim)
    k1, v = kv[..., : spec.nope_dim], kv[..., spec.nope_dim :]
    every = xp.broadcast_to(p, (*k1.shape[:3], p.shape[3]))
    return xp.concat([k1, every], axis=-1), v, saved


def _attend_to_cache(
    rt: Runtime,
    spec: LatentAttentionSpec,
    params: Params,
    name: str,
    q: Array,
    view: LatentView,
) -> Array:
    """Attention of q (B, H, T, N + P) over a view of a cache, the cheaper of two ways.   ->  y (B, H, T, Dv)"""
    T = q.shape[2]
    options = {"scale": spec.scale, "island": rt.dtype.softmax}
    has_adapter = f"{name}.{KV_B}.lora_A.weight" in params
    is_absorbed = rt.has("absorbed_attention") and not has_adapter
    if is_absorbed and (rt.is_invariant or is_absorbing_cheaper(spec, T, view.rows.latest + T)):
        return rt.ops.absorbed_attention(
            q, view, read_linear(params, f"{name}.{KV_B}").weight, **options
        )
    if rt.is_invariant:  # no row is moved
        c, p, _ = view.parts(spec.kv_rank)
        k, v, _ = _expand(rt, spec, params, name, cast(c, q.dtype)[:, 0, :, :], cast(p, q.dtype))
        return rt.ops.cached_attention(q, KeyView(k, v, view.rows), **options)
    c, p, first, start = gather(view.parts(spec.kv_rank), T)  # (B, 1, S, R or P)
    c, p = (cast(a, q.dtype) for a in (c, p))
    k, v, _ = _expand(rt, spec, params, name, c[:, 0, :, :], p)
    y, _ = rt.ops.attention_fwd(q, k, v, first, start=start, **options)
    return y


def is_absorbing_cheaper(spec: LatentAttentionSpec, T: int, S: int) -> bool:
    """Whether T queries over S slots multiply less with latents than with keys and values made of them."""
    N, R, P, Dv = spec.nope_dim, spec.kv_rank, spec.rope.dim, spec.value_dim
    absorbed = T * R * (N + Dv) + T * S * 2 * (R + P)
    expanded = S * R * (N + Dv) + T * S * (N + P + Dv)
    return absorbed < expanded


def _sum_over_heads(rt: Runtime, heads: Array) -> Array:
    """(B, H, T, P)  ->  (B, 1, T, P), rounded once."""
    xp = rt.backend.xp
    total = cast(heads, wide_dtype(heads, xp))
    while (H := total.shape[1]) > 1:
        pairs = total[:, : H // 2, ...] + total[:, H // 2 : H // 2 * 2, ...]
        total = xp.concat([pairs, total[:, H // 2 * 2 :, ...]], axis=1)
    return cast(total, heads.dtype)
