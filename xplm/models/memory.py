"""Memory of a pass through the decoder, in bytes: that of a block, measured, and that of the head, counted.

A block of the true widths runs on the host over ROWS positions, forward and back, and `xplm.meter` shows what it saves
and what it holds at most. All of that grows with the positions, whatever the block is made of: N hold N / ROWS times as
much. Weights and their gradients take no memory, and no product with them is computed. With A what a block saves, L the
number of blocks, X what the head keeps of its input and G the gradients, the moments of a training pass are

    head         L A + X + logits of a chunk + the table's gradient
    last block   L A + X + the table's gradient + the block's + scratch
    first block    A + X + G + scratch
    embedding          X + G, with tied embeddings the gradient of the table twice more

and with recompute, L A is A and the inputs of the other blocks.

An op of the library's own shows its steps; a backend's own kernel saves the same and has none. Where such a run does
not show what an op takes, it is counted by hand: `_ops`, `head_scratch`. Not counted: rows of statistics in an op,
tiles of fused kernels, and what BLAS packs. NumPy writes over a step that nobody else holds, and takes less.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from xplm.backend import assign
from xplm.cache import KVCache
from xplm.config import DecoderConfig
from xplm.gradients import Gradients
from xplm.kernels import PORTABLE
from xplm.kernels.attention import QUERY_ROWS
from xplm.kernels.expert_linear import ExpertLinearSaved
from xplm.kernels.fusions import FUSIONS
from xplm.kernels.linear import LinearSaved
from xplm.kernels.linear_cross_entropy import LOGITS_PER_CHUNK
from xplm.layers.block import block_bwd, block_fwd, block_name
from xplm.memory_plan import Moment
from xplm.meter import Counted, Meter
from xplm.models.decoder import EMBEDDING, head_name, make_context, param_specs
from xplm.params import ParamSpec, count_params
from xplm.runtime import Runtime
from xplm.specs import BlockSpec
from xplm.typing import Params
from xplm.views import KeyView, gather

ROWS = 2
"""Positions of a block that is measured."""


class BlockMemory(NamedTuple):
    """Bytes of one block's activations."""

    saved: int  # for its backward pass
    forward: int  # at most in its forward pass, what it saves among them
    scratch: int  # at most in its backward pass, next to what is saved
    largest: int  # of one array


class HeadScratch(NamedTuple):
    """Bytes of the head and its loss."""

    chunk: int  # the logits of the rows that are taken together
    logits: int  # they, and what is made of them
    gradients: int  # of the table, and the table where it is widened


def measure_pass(
    rt: Runtime,
    config: DecoderConfig,
    batch: int,
    tokens: int,
    trained: Mapping[str, ParamSpec],
    *,
    dropout: float = 0.0,
    recompute: bool = False,
) -> tuple[list[Moment], int]:
    """The moments of a training pass, next to the parameters, and the bytes of its largest array.

    Args:
        rt: kernels and dtypes.
        config: the model's.
        batch: rows.
        tokens: positions in a row.
        trained: specs of the parameters whose gradients are wanted, adapters among them.
        dropout: as `measure_blocks` takes it.
        recompute: as `loss_and_grads` takes it.
    """
    n, wide, head = batch * tokens, _wide(rt), trained.get(head_name(config))
    x = n * config.hidden_size * rt.host_dtype.compute.itemsize
    ends = 2 * x + (n * config.hidden_size if dropout else 0)  # the final norm's, the embedding's
    blocks = measure_blocks(rt, config, batch, tokens, trained, dropout=dropout)
    kept = [x if recompute else blocks[block].saved for block in config.blocks]
    again = 2 * x if recompute else 0  # a block's input and output
    moments = []

    def add(name: str, gradients: int, activations: int, logits: int = 0) -> None:
        parts = {"gradients": gradients, "activations": ends + activations, "logits": logits}
        moments.append(Moment(name, parts))

    scratch = head_scratch(rt, config, n, is_frozen=head is None)
    add("head", scratch.gradients, sum(kept) + x, scratch.logits)
    table = wide * head.size if head else 0
    gradients, names = table, {0: "first block", len(kept) - 1: "last block"}
    for layer, block in reversed([*enumerate(config.blocks)]):
        gradients += wide * count_params(_of_layer(trained, layer))
        own = blocks[block].saved + again + blocks[block].scratch
        add(names.get(layer, f"block {layer}"), gradients, sum(kept[:layer]) + own)
    # With tied embeddings, the embedding's part of the table's gradient, and the sum.
    parts = 2 * table if head_name(config) == EMBEDDING else 0
    add("embedding", wide * count_params(trained) + parts, 2 * x)
    return moments, max(scratch.chunk, *(block.largest for block in blocks.values()))


def measure_blocks(
    rt: Runtime,
    config: DecoderConfig,
    batch: int,
    tokens: int,
    adapters: Mapping[str, ParamSpec] | None = None,
    *,
    dropout: float = 0.0,
    capacity: int | None = None,
) -> dict[BlockSpec, BlockMemory]:
    """What each kind of block takes.

    Args:
        rt: kernels and dtypes.
        config: the model's.
        batch: rows.
        tokens: positions in a row.
        adapters: parameters next to the model's own; None: there are none.
        dropout: share of the branches' outputs that is left out.
        capacity: slots a row of the cache that has keys and values; None: they are a block's own.
    """
    specs = param_specs(config) | dict(adapters or {})
    meter, dtype = Meter(ROWS, batch * tokens), rt.host_dtype
    host = replace(
        rt,
        backend=replace(
            rt.backend,
            xp=np,
            device="cpu",
            from_host=np.asarray,
            to_host=np.asarray,
            assign=assign,
        ),
        kernels=_ops(rt, meter, batch, tokens, capacity or tokens),
        dtype=dtype,
    )
    cache = KVCache.allocate(host, config, 1, ROWS) if capacity else None
    context = make_context(host, config, ROWS, cache)

    def stream() -> Any:
        return meter.count(np.zeros((1, ROWS, config.hidden_size), dtype.compute))

    def drop(name: str, x: Any) -> tuple[Any, Any]:
        if not dropout:
            return x, None
        return host.ops.dropout_fwd(x, meter.count(np.ones(x.shape, bool)), rate=dropout)

    def measure(block: BlockSpec) -> BlockMemory:
        layer, weight = config.blocks.index(block), np.zeros((), dtype.compute)
        params: Params = {
            n: np.broadcast_to(weight, s.shape) for n, s in _of_layer(specs, layer).items()
        }
        meter.peak = meter.largest = 0
        saved = block_fwd(host, block, params, layer, stream(), context, drop)[1]
        forward, meter.peak, held = meter.peak, 0, meter.held
        if cache is None:
            block_bwd(host, block, layer, stream(), saved, Gradients(()))
        return BlockMemory(held, forward, meter.peak - held, meter.largest)

    return {block: measure(block) for block in set(config.blocks)}


def head_scratch(
    rt: Runtime, config: DecoderConfig, n: int, *, is_frozen: bool = False
) -> HeadScratch:
    """What the head and its loss take, forward and back, when they take the most.

    Args:
        rt: kernels and dtypes.
        config: the model's.
        n: positions.
        is_frozen: whether the table's gradient is left out.
    """
    V, C, wide = config.vocab_size, config.hidden_size, _wide(rt)
    is_narrow = rt.host_dtype.compute.itemsize < wide
    rows = min(n, max(1, LOGITS_PER_CHUNK // V))
    chunk, table = rows * V * wide, V * C * wide
    has_more = rows < n  # then the gradient of a chunk is next to the sum
    tables = 0 if is_frozen else 1 + has_more
    if is_fused(rt, "linear_cross_entropy_bwd"):  # narrow, x and dx widened too
        whole = 2 * n * C * wide if is_narrow else 0
        slopes = 0 if config.logit_cap is None else chunk
        return HeadScratch(chunk, chunk + slopes + whole, tables * table)

    # logits, p, dlogits and three steps between, and what is left of the chunk before; the table widened
    return HeadScratch(chunk, (6 + has_more) * chunk, (tables + is_narrow) * table)


def is_fused(rt: Runtime, name: str) -> bool:
    """Whether an op is the backend's own, and takes arrays of this policy."""
    op, _, _ = name.rpartition("_")
    island = {"attention": rt.policy.softmax, "linear_cross_entropy": rt.policy.loss}.get(op)
    is_taken = rt.host_dtype.compute.itemsize <= 4 and island in (None, "float32")
    return is_taken and rt.kernels[name] is not (PORTABLE | FUSIONS)[name]


def _ops(
    rt: Runtime, meter: Meter, batch: int, tokens: int, slots: int
) -> dict[str, Callable[..., Any]]:
    """Kernels of counted arrays; of parameters they give no gradients."""
    n, keys, wide = batch * tokens, batch * slots, _wide(rt)

    def widened(*arrays: Any) -> int:
        return sum(wide * n * x.size // ROWS for x in arrays if x.itemsize < wide)

    def matrix(weight: Any) -> int:  # which a fused kernel widens a part at a time
        return 0 if is_fused(rt, "linear_fwd") or weight.itemsize == wide else wide * weight.size

    def linear_fwd(x: Any, weight: Any, bias: Any = None) -> tuple[Any, LinearSaved]:
        y = meter.count(np.zeros((*x.shape[:-1], len(weight)), x.dtype))
        meter.note(widened(x, y) + matrix(weight))
        return y, LinearSaved(x, weight, bias)

    def linear_bwd(dy: Any, saved: LinearSaved, **_: Any) -> tuple[Any, None, None]:
        dx = np.zeros_like(saved.x)
        meter.note(widened(dy, saved.x, dx) + matrix(saved.weight))
        return dx, None, None

    def expert_linear_fwd(
        x: Any, weight: Any, bias: Any = None, *, counts: Any
    ) -> tuple[Any, ExpertLinearSaved]:
        y, _ = linear_fwd(x, weight[0])
        return y, ExpertLinearSaved(x, weight, bias, counts)

    def expert_linear_bwd(dy: Any, saved: Any, **_: Any) -> tuple[Any, None, None]:
        if not is_fused(rt, "expert_linear_bwd"):  # the experts' gradients, before they are stacked
            meter.note(wide * saved.weight.size)
        return linear_bwd(dy, LinearSaved(saved.x, saved.weight[0], None))

    def remade(*arrays: Any) -> int:
        """What keys and values take that are made of a cache's latents: a row a slot, of which `n` are counted."""
        wholes = [x if x.base is None else x.base for x in arrays if isinstance(x, Counted)]
        return sum(whole.nbytes * (keys - n) // ROWS for whole in wholes)

    def is_flash(name: str, k: Any, v: Any) -> bool:  # a fused kernel takes one width
        return is_fused(rt, name) and k.shape == v.shape

    def attention_fwd(q: Any, k: Any, v: Any, *first: Any, **options: Any) -> tuple[Any, Any]:
        meter.is_hidden = True
        y, saved = PORTABLE["attention_fwd"](q, k, v, *first, **options)
        y = _as_rows(y) if is_flash("attention_fwd", k, v) else y
        saved = saved._replace(y=y)
        meter.is_hidden = False
        pairs = 2 * wide * keys * k.size // ROWS
        more = remade(k, v) + (pairs if k.itemsize < wide else 0)
        if is_flash("attention_fwd", k, v):  # k and v in blocks
            meter.note(more + pairs + widened(q, y))
        else:  # scores, exponents and probabilities of some queries
            meter.note(more + 3 * min(QUERY_ROWS, tokens) * keys * q.shape[1] * wide)
        return y, saved

    def cached_attention(q: Any, view: Any, sinks: Any = None, **options: Any) -> Any:
        k, v, first, start = gather(view, q.shape[2])
        return attention_fwd(q, k, v, first, sinks, start=start, **options)[0]

    def absorbed_attention(q: Any, view: Any, weight: Any, **options: Any) -> Any:
        latents, (rows, R) = view.latents, weight.shape
        N = q.shape[3] - (latents.shape[3] - R)
        absorbed = meter.count(np.zeros((*q.shape[:3], latents.shape[3]), q.dtype))
        sums = cached_attention(absorbed, KeyView(latents, latents, view.rows), **options)
        y = meter.count(np.zeros((*q.shape[:3], rows // q.shape[1] - N), q.dtype))
        meter.note(widened(absorbed, sums, y) + matrix(weight))
        return y

    def attention_bwd(dy: Any, saved: Any) -> tuple[Any, ...]:
        dq, dk, dv, *_ = op("attention_bwd")(dy, saved)
        if is_flash("attention_bwd", dk, dv):
            meter.is_hidden = True
            dq, dk, dv = (_as_rows(x) for x in (dq, dk, dv))
            meter.is_hidden = False
            meter.note(widened(dy, *saved[:3], saved.y, dq, dk, dv))
        else:  # scores, P, dP and a step between; dq, dk and dv before they are cast
            scores = 4 * min(QUERY_ROWS, tokens) * n * dq.shape[1]
            meter.note((scores + n * (dq.size + dk.size + dv.size) // ROWS) * wide)
        return dq, dk, dv, None, None

    def op(name: str) -> Callable[..., Any]:
        kernel, is_own = (PORTABLE | FUSIONS)[name], is_fused(rt, name)

        def call(*args: Any, **options: Any) -> Any:
            meter.is_hidden = is_own or name == "attention_bwd"
            results = kernel(*args, **options)
            if is_own and name in ("rope_fwd", "rope_bwd"):
                results = tuple(_as_rows(x) for x in results)
            meter.is_hidden = False
            if name.endswith("_bwd"):
                results = tuple(None if np.ndim(x) < args[0].ndim else x for x in results)
            meter.note()
            return results

        return call

    by_hand = (
        *(linear_fwd, linear_bwd, expert_linear_fwd, expert_linear_bwd),
        *(attention_fwd, attention_bwd, cached_attention, absorbed_attention),
    )
    return {name: op(name) for name in rt.kernels} | {op.__name__: op for op in by_hand}


def _as_rows(x: Any) -> Any:
    """Heads (B, H, T, D) that lie as (B, T, H, D), as fused kernels leave them; other results as they are."""
    if not isinstance(x, np.ndarray) or x.ndim != 4:
        return x
    return x.transpose(0, 2, 1, 3).copy(order="C").transpose(0, 2, 1, 3)


def _of_layer(specs: Mapping[str, ParamSpec], layer: int) -> dict[str, ParamSpec]:
    prefix = f"{block_name(layer)}."
    return {name: spec for name, spec in specs.items() if name.startswith(prefix)}


def _wide(rt: Runtime) -> int:
    """Bytes of a number in the dtype that sums run in."""
    return max(4, rt.host_dtype.compute.itemsize)
