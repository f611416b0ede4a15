"""Every op and the whole decoder once more: float64 NumPy loops that follow the papers' formulas and nothing else.

Slow on purpose, without chunks, caches, shared tables or dtypes, so that it shares no mistake with the library.
"""

import math
from typing import Any

import numpy as np

from xplm.config import DecoderConfig
from xplm.specs import LatentAttentionSpec, MLPSpec, NormSpec, RMSNormSpec


def linear(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """x (..., C), weight (N, C), bias (N,)  ->  (..., N)"""
    y = np.einsum("...c,nc->...n", x, weight)
    return y if bias is None else y + bias


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    """x (..., C), weight (C,)  ->  (..., C)"""
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    """x (..., C), weight and bias (C,)  ->  (..., C)"""
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * weight + bias


def gelu(x: np.ndarray) -> np.ndarray:
    """The tanh form."""
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x: np.ndarray) -> np.ndarray:
    """x sigmoid(x)"""
    return x / (1 + np.exp(-x))


def swiglu(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    """silu(gate) * up"""
    return silu(gate) * up


def gelu_erf(x: np.ndarray) -> np.ndarray:
    """The exact form."""
    erf = np.vectorize(math.erf, otypes=[float])
    return x / 2 * (1 + erf(x / math.sqrt(2)))


def relu(x: np.ndarray) -> np.ndarray:
    """x where it is above 0, else 0."""
    return np.where(x > 0, x, 0.0)


def relu2(x: np.ndarray) -> np.ndarray:
    """The square of relu."""
    return relu(x) ** 2


ACTIVATIONS = {"silu": silu, "gelu": gelu, "gelu_erf": gelu_erf, "relu": relu, "relu2": relu2}
"""By the name in an MLPSpec."""


def softmax(x: np.ndarray, visible: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row by row over visible entries: y (..., S) and lse (..., 1)."""
    y, lse = np.zeros(x.shape), np.full((*x.shape[:-1], 1), -np.inf)
    visible = np.broadcast_to(visible, x.shape)
    for row in np.ndindex(x.shape[:-1]):
        seen = x[row][visible[row]]
        if len(seen):
            e = np.exp(seen - seen.max())
            y[row][visible[row]] = e / e.sum()
            lse[row] = seen.max() + np.log(e.sum())
    return y, lse


def rope(
    x: np.ndarray, positions: np.ndarray, inv_freq: np.ndarray, scale: float, pairs: str = "halves"
) -> np.ndarray:
    """x (B, H, T, D), positions (B, T), inv_freq (R/2,)  ->  (B, H, T, D): pairs of the first R features turned."""
    half = len(inv_freq)
    first, second = (
        (slice(half), slice(half, 2 * half))
        if pairs == "halves"
        else (slice(0, 2 * half, 2), slice(1, 2 * half, 2))
    )
    numbers = x[..., first] + 1j * x[..., second]
    turned = numbers * scale * np.exp(1j * positions[:, None, :, None] * inv_freq)
    y = x.copy()
    y[..., first], y[..., second] = turned.real, turned.imag
    return y


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    first: np.ndarray | None = None,
    sinks: np.ndarray | None = None,
    *,
    start: int,
    scale: float,
    window: int | None = None,
    cap: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """q (B, H, T, D), k (B, K, S, D), v (B, K, S, Dv), first (B, T), sinks (H,)  ->  y (B, H, T, Dv), lse (B, H, T):
    one query at a time.
    """
    B, H, T, _ = q.shape
    group = H // k.shape[1]
    y, lse = np.zeros((B, H, T, v.shape[3])), np.full((B, H, T), -np.inf)
    for b, h, t in np.ndindex(B, H, T):
        low = 0 if first is None else int(first[b, t])
        if window is not None:
            low = max(low, start + t - window + 1)
        keys, values = k[b, h // group, low : start + t + 1], v[b, h // group, low : start + t + 1]
        scores = keys @ q[b, h, t] * scale
        if cap is not None:
            scores = cap * np.tanh(scores / cap)
        if sinks is not None:
            scores, values = (
                np.append(scores, sinks[h]),
                np.vstack([values, np.zeros_like(v[:1, 0, 0])]),
            )
        if len(scores):
            e = np.exp(scores - scores.max())
            y[b, h, t] = e @ values / e.sum()
            lse[b, h, t] = scores.max() + np.log(e.sum())
    return y, lse


def latent_attention(
    spec: LatentAttentionSpec,
    p: dict[str, np.ndarray],
    x: np.ndarray,
    inv_freq: np.ndarray,
    scale: float,
) -> np.ndarray:
    """x (B, T, C)  ->  y (B, T, C), parameters p under names without their prefix: one head at a time, whose keys and
    values are made of the latents.
    """
    B, T, _ = x.shape
    N, D, R = spec.nope_dim, spec.head_dim, spec.kv_rank
    positions = np.broadcast_to(np.arange(T), (B, T))

    def project(x: np.ndarray, name: str) -> np.ndarray:
        return linear(x, p[f"{name}.weight"], p.get(f"{name}.bias"))

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return rms_norm(x, p[f"{name}.weight"], spec.norm.eps)

    def turned(x: np.ndarray) -> np.ndarray:
        return rope(x[:, None], positions, inv_freq, scale, spec.rope.pairs)

    if spec.q_rank is None:
        queries = project(x, "q_proj")
    else:
        queries = project(norm(project(x, "q_a_proj"), "q_a_layernorm"), "q_b_proj")
    joint = project(x, "kv_a_proj_with_mqa")
    latent, rotated = norm(joint[..., :R], "kv_a_layernorm"), turned(joint[..., R:])
    rows = p["kv_b_proj.weight"].reshape(spec.num_heads, N + spec.value_dim, R)
    heads = []
    for head, weight in enumerate(rows):
        q = queries[..., head * D : (head + 1) * D]
        q = np.concatenate([q[:, None, :, :N], turned(q[..., N:])], axis=-1)
        k = np.concatenate([linear(latent, weight[:N])[:, None], rotated], axis=-1)
        v = linear(latent, weight[N:])[:, None]
        heads.append(attention(q, k, v, start=0, scale=spec.scale)[0][:, 0])
    return project(np.concatenate(heads, axis=-1), "o_proj")


def decoder(
    config: DecoderConfig,
    params: dict[str, Any],
    ids: np.ndarray,
    inv_freq: np.ndarray,
    scale: float,
) -> np.ndarray:
    """Logits (B, T, V) of ids (B, T), parameters under Hugging Face names, in float64. Layers share their RoPE, if they
    have one.
    """
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}
    B, T = ids.shape
    positions = np.broadcast_to(np.arange(T), (B, T))
    D = config.blocks[0].mixer.head_dim

    def project(x: np.ndarray, name: str) -> np.ndarray:
        return linear(x, p[f"{name}.weight"], p.get(f"{name}.bias"))

    def norm(x: np.ndarray, name: str, spec: NormSpec | None) -> np.ndarray:
        if spec is None:
            return x
        weight = spec.offset + p.get(f"{name}.weight", np.ones(x.shape[-1]))
        if isinstance(spec, RMSNormSpec):
            return rms_norm(x, weight, spec.eps)
        return layer_norm(x, weight, p.get(f"{name}.bias", np.zeros(x.shape[-1])), spec.eps)

    def mlp(x: np.ndarray, name: str, spec: MLPSpec) -> np.ndarray:
        up, act = project(x, f"{name}.up_proj"), ACTIVATIONS[spec.activation]
        hidden = act(project(x, f"{name}.gate_proj")) * up if spec.is_gated else act(up)
        return project(hidden, f"{name}.down_proj")

    def heads(x: np.ndarray) -> np.ndarray:
        return x.reshape(B, T, -1, D).transpose(0, 2, 1, 3)

    x = config.embedding_scale * p["model.embed_tokens.weight"][ids]
    for layer, block in enumerate(config.blocks):
        name = f"model.layers.{layer}"
        n = norm(x, f"{name}.input_layernorm", block.norm)
        q, k, v = (heads(project(n, f"{name}.self_attn.{part}_proj")) for part in "qkv")
        if block.mixer.qk_norm is not None:
            q = norm(q, f"{name}.self_attn.q_norm", block.mixer.qk_norm)
            k = norm(k, f"{name}.self_attn.k_norm", block.mixer.qk_norm)
        if block.mixer.rope is not None:
            pairs = block.mixer.rope.pairs
            q, k = (rope(a, positions, inv_freq, scale, pairs) for a in (q, k))
        y, _ = attention(
            q,
            k,
            v,
            start=0,
            scale=block.mixer.scale,
            window=block.mixer.window,
        )
        y = project(y.transpose(0, 2, 1, 3).reshape(B, T, -1), f"{name}.self_attn.o_proj")
        y = norm(y, f"{name}.post_self_attn_layernorm", block.mixer_output_norm)
        after = x + block.branch_scale * y
        read = x if block.is_parallel else after
        if block.mlp_norm is not None or not block.is_parallel:
            n = norm(read, f"{name}.post_attention_layernorm", block.mlp_norm)
        y = norm(
            mlp(n, f"{name}.mlp", block.mlp), f"{name}.post_mlp_layernorm", block.mlp_output_norm
        )
        x = after + block.branch_scale * y
    x = norm(x, "model.norm", config.norm)
    head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    z = config.logit_scale * linear(x, p[head], p.get("lm_head.bias"))
    return z if config.logit_cap is None else config.logit_cap * np.tanh(z / config.logit_cap)
