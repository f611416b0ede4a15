"""The decoder: an embedding, blocks, a norm and a head.

    x      = e embedding(ids)         plus embedding(positions) where they are learned
    x      = block(x)                 L times
    logits = norm(x) @ lm_head^T      plus a bias where there is one; lm_head is the embedding where they are tied
    logits = c tanh(s logits / c)     s logits without a cap c

e and s are 1 in most families. e is rounded to the compute dtype before it multiplies, as Gemma's code does.

What a block is, its spec says (`xplm.specs`); families differ by nothing else.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from xplm.cache import Cache
from xplm.config import DecoderConfig
from xplm.formats import Format
from xplm.gradients import Gradients
from xplm.kernels.embedding import EmbeddingSaved
from xplm.kernels.linear_cross_entropy import scale_and_cap
from xplm.kernels.rope import rope_tables
from xplm.layers.block import block_fwd, block_name, block_specs
from xplm.layers.context import Context, RopeTables
from xplm.layers.norm import norm_layer_fwd, norm_specs
from xplm.layers.step import Steps
from xplm.params import Init, ParamSpec
from xplm.precision import cast, cast_host, scaled, wide_dtype
from xplm.rope_scaling import LENGTH_DEPENDENT, inverse_frequencies
from xplm.runtime import Runtime
from xplm.specs import RopeSpec
from xplm.typing import Array, Params
from xplm.weights import Weight

EMBEDDING = "model.embed_tokens.weight"
POSITIONS = "model.embed_positions.weight"
NORM = "model.norm"
LM_HEAD = "lm_head.weight"
HEAD_BIAS = "lm_head.bias"


class EmbedSaved(NamedTuple):
    ids: EmbeddingSaved
    positions: EmbeddingSaved | None  # None with RoPE


def param_specs(config: DecoderConfig) -> dict[str, ParamSpec]:
    """Every parameter of a configuration, by Hugging Face name. Tied embeddings have one, under EMBEDDING."""
    C, V, std = config.hidden_size, config.vocab_size, config.initializer_range
    init = Init(std, residual_std=std / (2 * config.num_hidden_layers) ** 0.5)
    specs = [ParamSpec(EMBEDDING, (V, C), "normal", std)]
    if config.has_learned_positions:
        rows = config.position_offset + config.max_position_embeddings
        specs.append(ParamSpec(POSITIONS, (rows, C), "normal", std))
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
    cache: Cache | None = None,
    *,
    counts: Sequence[int] | None = None,
    ends: Sequence[int] | None = None,
    last_only: bool = False,
    steps: Steps | None = None,
) -> Array:
    """Logits of the token after each position.

    Args:
        rt: backend, kernels and dtypes.
        config: the model's.
        params: its parameters, as `param_specs` lists them.
        ids: token ids (B, T), integer, on the backend's device. Each row's take the slots after its last in the cache.
        cache: earlier keys and values; this pass adds its own and advances it. None: there are none.
        counts: ids of each row, at most T. The rest of a shorter row repeats one of its ids, so that its keys are as
            finite as the row's; no query sees them, and the logits there mean nothing. None: T.
        ends: of each row the slot after the last of its whole prompt, where this pass reads one chunk of it. Dynamic
            RoPE and longrope rotate all of a prompt by the same frequencies. None: this pass reads the rest, T of each.
        last_only: give the logits of each row's last id alone.
        steps: takes single tokens through all blocks in one call. None: they go from block to block.

    Returns:
        Logits (B, T, V), or (B, 1, V), in the policy's loss dtype.
    """
    B, T = ids.shape
    context = make_context(rt, config, T, cache, ends)
    x, _ = embed_fwd(rt, config, params, ids, context)
    has_step = steps is not None and steps.take(context)
    x = steps(x, context) if steps and has_step else _blocks(rt, config, params, x, context)
    if cache is not None:
        cache.advance(counts or (T,) * B)

    if last_only:
        x = _last_rows(rt, x, counts)
    x, _ = norm_layer_fwd(rt, config.norm, params, NORM, x)
    head = head_weight(config, params)
    logits, _ = rt.ops.linear_fwd(cast(x, rt.dtype.loss), head, params.get(HEAD_BIAS))
    return scale_and_cap(logits, config.logit_scale, config.logit_cap)


def last_states(
    rt: Runtime,
    config: DecoderConfig,
    params: Params,
    ids: Array,
    cache: Cache,
    ends: Sequence[int],
) -> Array:
    """The states that the head would take: those behind the last norm.

    Args:
        rt: backend, kernels and dtypes.
        config: the model's.
        params: its parameters.
        ids: as `forward` takes them, as many in each row.
        cache: likewise.
        ends: likewise.

    Returns:
        (B, T, C) in the policy's compute dtype.
    """
    B, T = ids.shape
    context = make_context(rt, config, T, cache, ends)
    x, _ = embed_fwd(rt, config, params, ids, context)
    x = _blocks(rt, config, params, x, context)
    cache.advance((T,) * B)
    x, _ = norm_layer_fwd(rt, config.norm, params, NORM, x)
    return x


def _blocks(
    rt: Runtime, config: DecoderConfig, params: Params, x: Array, context: Context
) -> Array:
    """x (B, T, C) through all blocks, one after another."""
    for layer, block in enumerate(config.blocks):
        x, _ = block_fwd(rt, block, params, layer, x, context)
    return x


def _last_rows(rt: Runtime, x: Array, counts: Sequence[int] | None) -> Array:
    """The last of each row's positions.   x (B, T, C)  ->  (B, 1, C)"""
    B, T, C = x.shape
    if counts is None or min(counts) == T:
        return x[:, -1:, :]
    xp = rt.backend.xp
    last = np.arange(B) * T + np.maximum(counts, 1) - 1
    return xp.reshape(
        xp.take(xp.reshape(x, (-1, C)), rt.backend.from_host(last), axis=0), (B, 1, C)
    )


def embed_fwd(
    rt: Runtime, config: DecoderConfig, params: Params, ids: Array, context: Context
) -> tuple[Array, EmbedSaved]:
    """x = e embedding(ids), plus embedding(positions) where they are learned.   ids (B, T)  ->  x (B, T, C)"""
    x, ids_saved = rt.ops.embedding_fwd(ids, embedding_weight(params))
    if config.embedding_scale != 1.0:
        x = scaled(cast(x, rt.dtype.compute), _embedding_scale(rt, config))
    positions_saved = None
    if context.positions is not None:
        p, positions_saved = rt.ops.embedding_fwd(context.positions, params[POSITIONS])
        x = x + cast(p, x.dtype)
    return cast(x, rt.dtype.compute), EmbedSaved(ids_saved, positions_saved)


def embed_bwd(
    rt: Runtime, config: DecoderConfig, dx: Array, saved: EmbedSaved, grads: Gradients
) -> None:
    """Both tables' gradients, from dx (B, T, C), go to `grads`."""
    # x = e embedding(ids) + embedding(positions)
    if grads.wants(EMBEDDING):
        grads.add(EMBEDDING, rt.ops.embedding_bwd(_scaled_wide(rt, config, dx), saved.ids)[1])
    if saved.positions is not None and grads.wants(POSITIONS):
        if saved.positions.ids.shape[0] == 1:  # one row of positions serves the whole batch
            wide = wide_dtype(dx, rt.backend.xp)
            dx = rt.backend.xp.sum(cast(dx, wide), axis=0, keepdims=True)
        grads.add(POSITIONS, rt.ops.embedding_bwd(dx, saved.positions)[1])


def _embedding_scale(rt: Runtime, config: DecoderConfig) -> float:
    """e, rounded to the compute dtype."""
    return float(cast_host(np.asarray([config.embedding_scale]), rt.host_dtype.compute)[0])


def _scaled_wide(rt: Runtime, config: DecoderConfig, dx: Array) -> Array:
    """e dx, which many rows of are added up, in the dtype of that sum; dx itself where e is 1."""
    if config.embedding_scale == 1.0:
        return dx
    return cast(dx, wide_dtype(dx, rt.backend.xp)) * _embedding_scale(rt, config)


def head_name(config: DecoderConfig) -> str:
    """The parameter that makes logits."""
    return EMBEDDING if config.tie_word_embeddings else LM_HEAD


def embedding_weight(params: Params) -> Weight:
    """The table that token ids index (V, C)."""
    return params[EMBEDDING]


def head_weight(config: DecoderConfig, params: Params) -> Weight:
    """The table that makes logits (V, C)."""
    return params[head_name(config)]


def make_context(
    rt: Runtime,
    config: DecoderConfig,
    T: int,
    cache: Cache | None = None,
    ends: Sequence[int] | None = None,
) -> Context:
    """Positions, RoPE tables and mask limits of T positions that follow the cache's last. Arguments as `forward`'s."""
    to_device = rt.backend.from_host
    rows = None if cache is None else cache.rows()
    slots = np.arange(T)[None, :]  # (1, T)
    begins = np.zeros(1, np.int64) if rows is None else np.asarray(rows.begins)  # (B,)
    if len(set(begins.tolist())) == 1 and (ends is None or len(set(ends)) == 1):
        begins = begins[:1]  # one row of positions serves all
    positions = slots + begins[:, None]  # (1 or B, T)
    lengths = begins + T if ends is None else np.asarray(ends[: len(begins)])

    ropes = {}
    for rope in config.ropes:
        tables = make_rope_tables(rope, positions, lengths, rt.table_dtype)
        ropes[rope] = RopeTables(*(cast(to_device(table), rt.dtype.rope) for table in tables))

    learned = None
    if config.has_learned_positions:
        learned = to_device(positions + config.position_offset)
    return Context(learned, ropes, cache, rows)


def make_rope_tables(
    rope: RopeSpec, positions: np.ndarray, lengths: np.ndarray, dtype: np.dtype | Format
) -> list[np.ndarray]:
    """cos, sin (B, 1, T, dim/2) on the host, of positions (B, T) in sequences of `lengths` (B,)."""
    if rope.rope_type not in LENGTH_DEPENDENT:
        lengths = lengths[:1]
    rows = []
    for i, length in enumerate(lengths):
        inv_freq, scale = inverse_frequencies(rope, length=int(length))
        own = positions if len(lengths) == 1 else positions[i : i + 1]
        rows.append(rope_tables(own, inv_freq, scale=scale, dtype=dtype))
    return [np.concatenate(tables, axis=0) for tables in zip(*rows, strict=True)]
