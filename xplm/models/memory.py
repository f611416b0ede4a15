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
not show what an op takes, it is counted by hand: `xplm.models.counted_ops`, `head_scratch`. Not counted: rows of
statistics in an op, tiles of fused kernels, and what BLAS packs. NumPy writes over a step that nobody else holds, and
takes less.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from xplm.backend import assign
from xplm.cache import KVCache
from xplm.config import DecoderConfig
from xplm.gradients import Gradients
from xplm.kernels.linear_cross_entropy import LOGITS_PER_CHUNK
from xplm.layers.block import block_bwd, block_fwd, block_name
from xplm.memory_plan import Moment
from xplm.meter import Meter
from xplm.models.counted_ops import ROWS, count_ops, is_fused, wide_bytes
from xplm.models.decoder import EMBEDDING, head_name, make_context, param_specs
from xplm.params import ParamSpec, count_params
from xplm.runtime import Runtime
from xplm.specs import BlockSpec
from xplm.typing import Params


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
    n, wide, head = batch * tokens, wide_bytes(rt), trained.get(head_name(config))
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
        kernels=count_ops(rt, meter, batch, tokens, capacity or tokens),
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
    V, C, wide = config.vocab_size, config.hidden_size, wide_bytes(rt)
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


def _of_layer(specs: Mapping[str, ParamSpec], layer: int) -> dict[str, ParamSpec]:
    prefix = f"{block_name(layer)}."
    return {name: spec for name, spec in specs.items() if name.startswith(prefix)}
