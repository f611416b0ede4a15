"""Causal grouped-query self-attention: project, rotate, attend, project back.

q, k, v = x Wq^T, x Wk^T, x Wv^T            cut into heads of width D
q, k    = norm(q), norm(k)                  of a head or of all heads, where the spec has a norm
q, k, v = clip(q), clip(k), clip(v)         where it bounds them: c where an entry is above c, -c where below -c
q, k    = rope(q), rope(k)                  where it has rotary positions
y       = attention(q, cached k, cached v) Wo^T

Gradient. That of a clipped entry is 0, that of any other passes. Layers in reverse give the rest.
"""

from dataclasses import replace
from typing import Any, NamedTuple

from xplm.gradients import Gradients
from xplm.kernels.attention import AttentionSaved
from xplm.kernels.rope import RopeSaved
from xplm.layers.context import Context
from xplm.layers.linear import LinearLayerSaved, linear_layer_bwd, linear_layer_fwd, linear_specs
from xplm.layers.norm import norm_layer_bwd, norm_layer_fwd, norm_specs
from xplm.params import Init, ParamSpec
from xplm.precision import cast
from xplm.runtime import Runtime
from xplm.specs import AttentionSpec
from xplm.typing import Array, Params
from xplm.views import KeyView, PagedView, gather


class AttentionLayerSaved(NamedTuple):
    q: LinearLayerSaved
    k: LinearLayerSaved
    v: LinearLayerSaved
    q_norm: Any  # of the norm; None without one
    k_norm: Any
    kept: tuple[Array, ...]  # bool, of q, k, v (B, T, N D): within the bound; () without one
    rope_q: RopeSaved | None  # None where nothing is rotated
    rope_k: RopeSaved | None
    attention: AttentionSaved | None  # None over a cache
    o: LinearLayerSaved


def attention_specs(spec: AttentionSpec, name: str, width: int, init: Init) -> list[ParamSpec]:
    """The parameters of a layer between rows of `width` features."""
    H, K, D, Dv = spec.num_heads, spec.num_key_value_heads, spec.head_dim, spec.value_dim
    specs = [
        *linear_specs(f"{name}.q_proj", H * D, width, bias=spec.qkv_bias, std=init.std),
        *linear_specs(f"{name}.k_proj", K * D, width, bias=spec.qkv_bias, std=init.std),
        *linear_specs(f"{name}.v_proj", K * Dv, width, bias=spec.qkv_bias, std=init.std),
        *linear_specs(
            f"{name}.o_proj", width, H * Dv, bias=spec.output_bias, std=init.residual_std
        ),
    ]
    if spec.qk_norm is not None:
        for part, heads in (("q", H), ("k", K)):
            rows = norm_specs(spec.qk_norm, f"{name}.{part}_norm", D)
            shape = {"head": (D,), "each head": (heads, D), "all heads": (heads * D,)}
            specs += [replace(row, shape=shape[spec.qk_norm_over]) for row in rows]
    if spec.has_sinks:
        specs.append(ParamSpec(f"{name}.sinks", (H,), "normal", init.std))
    return specs


def attention_layer_fwd(
    rt: Runtime, spec: AttentionSpec, params: Params, name: str, x: Array, context: Context
) -> tuple[Array, AttentionLayerSaved]:
    """x (B, T, C)  ->  y (B, T, C)

    Args:
        rt: backend, kernels and dtypes.
        spec: heads, positions, window and scale.
        params: the model's parameters.
        name: prefix of this layer's parameters, such as "model.layers.0.self_attn".
        x: input (B, T, C), normalised.
        context: tables, mask and cache of this forward pass.
    """
    q, q_saved = linear_layer_fwd(rt, params, f"{name}.q_proj", x)  # (B, T, H D)
    k, k_saved = linear_layer_fwd(rt, params, f"{name}.k_proj", x)  # (B, T, K D)
    v, v_saved = linear_layer_fwd(rt, params, f"{name}.v_proj", x)  # (B, T, K Dv)

    q_norm_saved = k_norm_saved = rope_q_saved = rope_k_saved = None
    kept: tuple[Array, ...] = ()
    if spec.qk_norm is not None:
        q, k = _normed_rows(rt, spec, q), _normed_rows(rt, spec, k)
        q, q_norm_saved = norm_layer_fwd(rt, spec.qk_norm, params, f"{name}.q_norm", q)
        k, k_norm_saved = norm_layer_fwd(rt, spec.qk_norm, params, f"{name}.k_norm", k)
    if spec.clip is not None:
        (q, k, v), kept = _clip(rt, spec.clip, (q, k, v))
    D, Dv = spec.head_dim, spec.value_dim
    q, k, v = (
        cut_heads(rt, q, D),
        cut_heads(rt, k, D),
        cut_heads(rt, v, Dv),
    )  # (B, H or K, T, D or Dv)
    if spec.rope is not None:
        cos, sin = context.ropes[spec.rope]
        q, rope_q_saved = rt.ops.rope_fwd(q, cos, sin, pairs=spec.rope.pairs)
        k, rope_k_saved = rt.ops.rope_fwd(k, cos, sin, pairs=spec.rope.pairs)

    attention_saved = None
    sinks = params[f"{name}.sinks"] if spec.has_sinks else None
    if context.cache is not None:
        assert context.rows is not None
        view = context.cache.extend(context.layer, k, v, context.rows)
        del k, v  # the cache has them
        y = _attend_to_cache(rt, spec, q, view, sinks)  # (B, H, T, Dv)
    else:
        options = _options(rt, spec)
        y, attention_saved = rt.ops.attention_fwd(q, k, v, None, sinks, start=0, **options)

    y, o_saved = linear_layer_fwd(rt, params, f"{name}.o_proj", join_heads(rt, y))  # (B, T, C)
    return y, AttentionLayerSaved(
        q_saved,
        k_saved,
        v_saved,
        q_norm_saved,
        k_norm_saved,
        kept,
        rope_q_saved,
        rope_k_saved,
        attention_saved,
        o_saved,
    )


def cut_heads(rt: Runtime, rows: Array, width: int) -> Array:
    """(B, T, H width), cut into heads or not  ->  (B, H, T, width)"""
    xp, (B, T) = rt.backend.xp, rows.shape[:2]
    return xp.permute_dims(xp.reshape(rows, (B, T, -1, width)), (0, 2, 1, 3))


def join_heads(rt: Runtime, heads: Array) -> Array:
    """(B, H, T, width)  ->  (B, T, H width)"""
    xp, (B, _, T, _) = rt.backend.xp, heads.shape
    return xp.reshape(xp.permute_dims(heads, (0, 2, 1, 3)), (B, T, -1))


def attention_layer_bwd(
    rt: Runtime,
    spec: AttentionSpec,
    name: str,
    dy: Array,
    saved: AttentionLayerSaved,
    grads: Gradients,
) -> Array:
    """dx (B, T, C), from dy (B, T, C); gradients of parameters go to `grads`. The forward pass had no cache."""
    xp = rt.backend.xp
    B, T, _ = dy.shape

    # y = joined heads Wo^T
    dheads = linear_layer_bwd(rt, f"{name}.o_proj", dy, saved.o, grads)  # (B, T, H Dv)
    dheads = cut_heads(rt, dheads, spec.value_dim)

    # heads = attention(rope(clip(norm(q))), rope(clip(norm(k))), clip(v))
    assert saved.attention is not None
    dq, dk, dv, _, dsinks = rt.ops.attention_bwd(dheads, saved.attention)
    if dsinks is not None:
        grads.add(f"{name}.sinks", dsinks)
    if saved.rope_q is not None and saved.rope_k is not None:
        dq, _, _ = rt.ops.rope_bwd(dq, saved.rope_q)
        dk, _, _ = rt.ops.rope_bwd(dk, saved.rope_k)
    dq, dk, dv = join_heads(rt, dq), join_heads(rt, dk), join_heads(rt, dv)  # (B, T, N D)
    if saved.kept:
        dq, dk, dv = (
            xp.where(kept, d, xp.zeros_like(d))
            for kept, d in zip(saved.kept, (dq, dk, dv), strict=True)
        )
    if spec.qk_norm is not None:
        dq, dk = _normed_rows(rt, spec, dq), _normed_rows(rt, spec, dk)
        dq = norm_layer_bwd(rt, spec.qk_norm, f"{name}.q_norm", dq, saved.q_norm, grads)
        dk = norm_layer_bwd(rt, spec.qk_norm, f"{name}.k_norm", dk, saved.k_norm, grads)
        dq, dk = xp.reshape(dq, (B, T, -1)), xp.reshape(dk, (B, T, -1))

    # q, k, v = x Wq^T, x Wk^T, x Wv^T: x is read three times
    dx = linear_layer_bwd(rt, f"{name}.q_proj", dq, saved.q, grads)
    dx = dx + linear_layer_bwd(rt, f"{name}.k_proj", dk, saved.k, grads)
    dx = dx + linear_layer_bwd(rt, f"{name}.v_proj", dv, saved.v, grads)
    return dx


def _normed_rows(rt: Runtime, spec: AttentionSpec, x: Array) -> Array:
    """x (B, T, N D) as its norm takes it: (B, T, N, D) where that is over a head."""
    if spec.qk_norm_over == "all heads":
        return x
    return rt.backend.xp.reshape(x, (*x.shape[:2], -1, spec.head_dim))


def _clip(
    rt: Runtime, bound: float, arrays: tuple[Array, ...]
) -> tuple[list[Array], tuple[Array, ...]]:
    """Arrays with entries between -bound and bound, and where they were so, each (B, T, N D)."""
    xp = rt.backend.xp
    clipped = [cast(xp.clip(x, -bound, bound), x.dtype) for x in arrays]
    kept = [xp.reshape(xp.abs(x) <= bound, (*x.shape[:2], -1)) for x in arrays]
    return clipped, tuple(kept)


def _options(rt: Runtime, spec: AttentionSpec) -> dict[str, Any]:
    """The options of attention that a layer's spec and the policy decide."""
    island = rt.dtype.softmax
    return {"scale": spec.scale, "window": spec.window, "cap": spec.cap, "island": island}


def _attend_to_cache(
    rt: Runtime, spec: AttentionSpec, q: Array, view: KeyView | PagedView, sinks: Array | None
) -> Array:
    """Attention of q (B, H, T, D) over a view of a cache, in one op where the table has that."""
    options = _options(rt, spec)
    if rt.has("cached_attention"):
        return rt.ops.cached_attention(q, view, sinks, **options)
    k, v, first, start = gather(view, q.shape[2])
    y, _ = rt.ops.attention_fwd(q, k, v, first, sinks, start=start, **options)
    return y
