"""All blocks of a decoder, for decoding: bound to their weights once, and then one call a token.

y = norm_attention_residual(x)              L times
x = norm_mlp_residual(y, residual=y)        of x where attention and MLP are parallel
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from xplm.kernels.parts.norms import RMS
from xplm.kernels.rope import HALVES
from xplm.typing import Array, DType
from xplm.views import LayerCache, Rows

Half: TypeAlias = Callable[[Array, Array], Array]
"""(x, residual) -> y, as `norm_mlp_residual` has them: what computes a half that the fusion does not."""


class BlockWeights(NamedTuple):
    """A block's weights and biases as the two fusions take them, and how far back its attention sees."""

    attention: tuple[
        Array | None, ...
    ]  # norm; weights of q, k, v, o; their biases; norms of q, k; sinks
    mlp: tuple[Array | None, ...] | Half  # norm; weights of gate, up, down; their biases
    window: int | None
    is_parallel: bool = False
    table: int | None = (
        0  # number of its RoPE tables among the step's; None: q and k are not rotated
    )
    pairs: str = HALVES  # features that are rotated together
    output_norms: tuple[Array | None, Array | None] = (None, None)  # of attention, of the MLP


Tables: TypeAlias = Sequence[tuple[Array, Array]]
"""cos and sin (B or 1, 1, T, R/2) of each kind of RoPE."""

BoundBlocks: TypeAlias = Callable[[Array, Tables, Sequence[LayerCache], Rows], Array]
"""(x, tables, caches, rows) -> y, as `norm_attention_residual` has them, with a cache for each block."""


def bind_blocks(
    blocks: tuple[BlockWeights, ...],
    *,
    attention_half: Callable[..., Array],
    mlp_half: Callable[..., Array],
    scale: float,
    cap: float | None = None,
    activation: str = "silu",
    branch_scale: float = 1.0,
    norm_kind: str = RMS,
    eps: float,
    island: DType | None = None,
) -> BoundBlocks:
    """What takes x (B, T, C) through all blocks, and writes to their caches; options as the two fusions'.

    The halves are `norm_attention_residual` and `norm_mlp_residual`, as a backend has them.
    """
    both: dict[str, Any] = {
        **{"branch_scale": branch_scale, "norm_kind": norm_kind},
        **{"eps": eps, "island": island},
    }

    def step(
        x: Array,
        tables: Tables,
        caches: Sequence[LayerCache],
        rows: Rows,
    ) -> Array:
        for block, cache in zip(blocks, caches, strict=True):
            seen = {"scale": scale, "window": block.window, "cap": cap, "pairs": block.pairs}
            cos, sin = (None, None) if block.table is None else tables[block.table]
            of_attention, of_mlp = block.output_norms
            given = *block.attention, cos, sin, cache, rows, of_attention
            y = attention_half(x, *given, **seen, **both)
            read = x if block.is_parallel else y
            if callable(block.mlp):
                x = block.mlp(read, y)
            else:
                x = mlp_half(read, y, *block.mlp, of_mlp, activation=activation, **both)
        return x

    return step
