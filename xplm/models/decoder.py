"""The decoder: an embedding, blocks, a norm and a head.

    x      = embedding(ids)           plus embedding(positions) where they are learned
    x      = block(x)                 L times
    logits = norm(x) @ lm_head^T      plus a bias where there is one; lm_head is the embedding where they are tied

What a block is, its spec says (`xplm.specs`); families differ by nothing else.
"""

from typing import NamedTuple

import numpy as np

from xplm.cache import KVCache
from xplm.config import DecoderConfig
from xplm.formats import Format
from xplm.gradients import Gradients
from xplm.kernels.embedding import EmbeddingSaved
from xplm.kernels.rope import rope_tables
from xplm.layers.block import block_fwd, block_name, block_specs
from xplm.layers.context import Context, RopeTables
from xplm.layers.norm import norm_layer_fwd, norm_specs
from xplm.layers.step import Steps
from xplm.params import Init, ParamSpec
from xplm.precision import cast, wide_dtype
from xplm.rope_scaling import inverse_frequencies
from xplm.runtime import Runtime
from xplm.specs import RopeSpec
from xplm.typing import Array, Params

EMBEDDING = "model.embed_tokens.weight"
POSITIONS = "model.embed_positions.weight"
NORM = "model.norm"
LM_HEAD = "lm_head.weight"
HEAD_BIAS = "lm_head.bias"


class EmbedSaved(NamedTuple):
    ids: EmbeddingSaved
    positions: EmbeddingSaved | None  # None with RoPE
    padding: Array | None  # (B, T, 1) bool


def param_specs(config: DecoderConfig) -> dict[str, ParamSpec]:
    """Every parameter of a configuration, by Hugging Face name. Tied embeddings have one, under EMBEDDING."""
    C, V, std = config.hidden_size, config.vocab_size, config.initializer_range
    init = Init(std, residual_std=std / (2 * config.num_hidden_layers) ** 0.5)
    specs = [ParamSpec(EMBEDDING, (V, C), "normal", std)]
    if config.has_learned_positions:
        specs.append(ParamSpec(POSITIONS, (config.max_position_embeddings, C), "normal", std))
    for layer, block in enumerate(config.blocks):
        specs += block_specs(block, block_name(layer), C, init)
    specs += norm_specs(config.norm, NORM, C)
    if not config.tie_word_embeddings:
        specs.append(ParamSpec(LM_HEAD, (V, C), "normal", std))
    if config.head_bias:
        specs.append(ParamSpec(HEAD_BIAS, (V,), "zeros"))
    return {spec.name: spec for spec in specs}


def forward(
    rt: Runtime,
    config: DecoderConfig,
    params: Params,
    ids: Array,
    cache: KVCache | None = None,
    *,
    first: np.ndarray | None = None,
    end: int | None = None,
    last_only: bool = False,
    steps: Steps | None = None,
) -> Array:
    """Logits of the token after each position.

    Args:
        rt: backend, kernels and dtypes.
        config: the model's.
        params: its parameters, as `param_specs` lists them.
        ids: token ids (B, T), integer, on the backend's device. They take the slots after the cache's last.
        cache: earlier keys and values; this pass adds its own and advances it by T. None: there are none.
        first: for each row the slot its sequence begins in (B,), on the host; earlier slots are padding.
            None: every sequence begins in slot 0.
        end: the slot after the last of the whole prompt, where this pass reads one chunk of it. Dynamic RoPE turns
            all of a prompt by the same frequencies. None: this pass reads the rest.
        last_only: give the logits of the last position alone.
        steps: takes single tokens through all blocks in one call. None: they go from block to block.

    Returns:
        Logits (B, T, V), or (B, 1, V), in the policy's loss dtype.
    """
    context = make_context(rt, config, ids.shape[1], cache, first, end)
    x, _ = embed_fwd(rt, params, ids, context)
    if steps is not None and steps.take(context):
        x = steps(x, context)
    else:
        for layer, block in enumerate(config.blocks):
            x, _ = block_fwd(rt, block, params, layer, x, context)
    if cache is not None:
        cache.advance(ids.shape[1])

    if last_only:
        x = x[:, -1:, :]
    x, _ = norm_layer_fwd(rt, config.norm, params, NORM, x)
    head = head_weight(config, params)
    logits, _ = rt.ops.linear_fwd(cast(x, rt.dtype.loss), head, params.get(HEAD_BIAS))
    return logits


def embed_fwd(
    rt: Runtime, params: Params, ids: Array, context: Context
) -> tuple[Array, EmbedSaved]:
    """x = embedding(ids), plus embedding(positions) where they are learned.   ids (B, T)  ->  x (B, T, C)"""
    x, ids_saved = rt.ops.embedding_fwd(ids, params[EMBEDDING])
    positions_saved = None
    if context.positions is not None:
        p, positions_saved = rt.ops.embedding_fwd(context.positions, params[POSITIONS])
        x = x + p
    if (
        context.padding is not None
    ):  # zeros stay finite in every layer; what is hidden must not overflow
        x = rt.backend.xp.where(context.padding, rt.backend.xp.zeros_like(x), x)
    return cast(x, rt.dtype.compute), EmbedSaved(ids_saved, positions_saved, context.padding)


def embed_bwd(rt: Runtime, dx: Array, saved: EmbedSaved, grads: Gradients) -> None:
    """Both tables' gradients, from dx (B, T, C), go to `grads`."""
    if saved.padding is not None:
        kept = rt.backend.xp.where(saved.padding, rt.backend.xp.zeros_like(dx), dx)
        dx = cast(kept, dx.dtype)  # CuPy's `where` widens bfloat16
    if grads.wants(EMBEDDING):
        grads.add(EMBEDDING, rt.ops.embedding_bwd(dx, saved.ids)[1])
    if saved.positions is not None and grads.wants(POSITIONS):
        if saved.positions.ids.shape[0] == 1:  # one row of positions serves the whole batch
            wide = wide_dtype(dx, rt.backend.xp)
            dx = rt.backend.xp.sum(cast(dx, wide), axis=0, keepdims=True)
        grads.add(POSITIONS, rt.ops.embedding_bwd(dx, saved.positions)[1])


def head_name(config: DecoderConfig) -> str:
    """The parameter that makes logits."""
    return EMBEDDING if config.tie_word_embeddings else LM_HEAD


def head_weight(config: DecoderConfig, params: Params) -> Array:
    """The table that makes logits (V, C)."""
    return params[head_name(config)]


def make_context(
    rt: Runtime,
    config: DecoderConfig,
    T: int,
    cache: KVCache | None = None,
    first: np.ndarray | None = None,
    end: int | None = None,
) -> Context:
    """Positions, RoPE tables and mask limits of T positions that follow the cache's last. Arguments as `forward`'s."""
    to_device = rt.backend.from_host
    start = 0 if cache is None else cache.length
    end = max(end or 0, start + T)
    slots = np.arange(start, start + T)[None, :]  # (1, T)
    begins = np.zeros(1, np.int64) if first is None else first  # (1,) or (B,)
    positions = np.maximum(slots - begins[:, None], 0)  # (1 or B, T)

    ropes = {}
    for rope in config.ropes:
        tables = make_rope_tables(rope, positions, end - begins, rt.table_dtype)
        ropes[rope] = RopeTables(*(cast(to_device(table), rt.dtype.rope) for table in tables))

    padding = first_slots = None
    if first is not None:
        padding = to_device((slots < first[:, None])[:, :, None])
        first_slots = to_device(np.broadcast_to(first[:, None], positions.shape).copy())
    learned = to_device(positions) if config.has_learned_positions else None
    return Context(learned, ropes, first_slots, padding, start, cache)


def make_rope_tables(
    rope: RopeSpec, positions: np.ndarray, lengths: np.ndarray, dtype: np.dtype | Format
) -> list[np.ndarray]:
    """cos, sin (B, 1, T, dim/2) on the host, of positions (B, T) in sequences of `lengths` (B,)."""
    if rope.rope_type != "dynamic":  # frequencies do not depend on the length
        lengths = lengths[:1]
    rows = []
    for i, length in enumerate(lengths):
        inv_freq, scale = inverse_frequencies(rope, length=int(length))
        own = positions if len(lengths) == 1 else positions[i : i + 1]
        rows.append(rope_tables(own, inv_freq, scale=scale, dtype=dtype))
    return [np.concatenate(tables, axis=0) for tables in zip(*rows, strict=True)]
