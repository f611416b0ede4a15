"""Every op and the whole decoder once more: float64 NumPy loops that follow the papers' formulas and nothing else.

Slow on purpose, without chunks, caches, shared tables or dtypes, so that it shares no mistake with the library.
"""

import math
from typing import Any

import numpy as np

from xplm.config import DecoderConfig


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


def swiglu(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    """silu(gate) * up"""
    return gate / (1 + np.exp(-gate)) * up


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


def rope(x: np.ndarray, positions: np.ndarray, inv_freq: np.ndarray, scale: float) -> np.ndarray:
    """x (B, H, T, D), positions (B, T)  ->  (B, H, T, D): each pair as a complex number, turned."""
    half = x.shape[-1] // 2
    pairs = x[..., :half] + 1j * x[..., half:]
    turned = pairs * scale * np.exp(1j * positions[:, None, :, None] * inv_freq)
    return np.concatenate([turned.real, turned.imag], axis=-1)


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    first: np.ndarray | None = None,
    *,
    start: int,
    scale: float,
    window: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """q (B, H, T, D), k (B, K, S, D), v (B, K, S, Dv), first (B, T)  ->  y (B, H, T, Dv), lse (B, H, T): one query at
    a time.
    """
    B, H, T, _ = q.shape
    group = H // k.shape[1]
    y, lse = np.zeros((B, H, T, v.shape[3])), np.full((B, H, T), -np.inf)
    for b, h, t in np.ndindex(B, H, T):
        low = 0 if first is None else int(first[b, t])
        if window is not None:
            low = max(low, start + t - window + 1)
        keys, values = k[b, h // group, low : start + t + 1], v[b, h // group, low : start + t + 1]
        if len(keys):
            scores = keys @ q[b, h, t] * scale
            e = np.exp(scores - scores.max())
            y[b, h, t] = e @ values / e.sum()
            lse[b, h, t] = scores.max() + np.log(e.sum())
    return y, lse


def decoder(
    config: DecoderConfig,
    params: dict[str, Any],
    ids: np.ndarray,
    inv_freq: np.ndarray,
    scale: float,
) -> np.ndarray:
    """Logits (B, T, V) of ids (B, T), parameters under Hugging Face names, in float64."""
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}
    B, T = ids.shape
    positions = np.broadcast_to(np.arange(T), (B, T))
    D = config.blocks[0].mixer.head_dim

    def project(x: np.ndarray, name: str) -> np.ndarray:
        return linear(x, p[f"{name}.weight"], p.get(f"{name}.bias"))

    def heads(x: np.ndarray) -> np.ndarray:
        return x.reshape(B, T, -1, D).transpose(0, 2, 1, 3)

    x = p["model.embed_tokens.weight"][ids]
    for layer, block in enumerate(config.blocks):
        name = f"model.layers.{layer}"
        n = rms_norm(x, p[f"{name}.input_layernorm.weight"], block.norm.eps)
        q, k, v = (heads(project(n, f"{name}.self_attn.{part}_proj")) for part in "qkv")
        if block.mixer.qk_norm is not None:
            eps = block.mixer.qk_norm.eps
            q, k = (
                rms_norm(a, p[f"{name}.self_attn.{part}_norm.weight"], eps)
                for part, a in (("q", q), ("k", k))
            )
        y, _ = attention(
            rope(q, positions, inv_freq, scale),
            rope(k, positions, inv_freq, scale),
            v,
            start=0,
            scale=1 / math.sqrt(D),
            window=block.mixer.window,
        )
        x = x + project(y.transpose(0, 2, 1, 3).reshape(B, T, -1), f"{name}.self_attn.o_proj")
        n = rms_norm(x, p[f"{name}.post_attention_layernorm.weight"], block.norm.eps)
        gate, up = project(n, f"{name}.mlp.gate_proj"), project(n, f"{name}.mlp.up_proj")
        x = x + project(swiglu(gate, up), f"{name}.mlp.down_proj")
    x = rms_norm(x, p["model.norm.weight"], config.norm.eps)
    tied = config.tie_word_embeddings
    return linear(x, p["model.embed_tokens.weight" if tied else "lm_head.weight"])
