"""All blocks of a decoder, for decoding: bound to their weights once, and then one call a token.

x = norm_attention_residual(x)          L times
x = norm_mlp_residual(x)
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from xplm.typing import Array, DType, LayerCache


class BlockWeights(NamedTuple):
    """A block's weights and biases as the two fusions take them, and how far back its attention sees."""

    attention: tuple[Array | None, ...]  # norm; weights of q, k, v, o; their biases
    mlp: tuple[Array | None, ...]  # norm; weights of gate, up, down; their biases
    window: int | None


BoundBlocks: TypeAlias = Callable[
    [Array, Array, Array, Sequence[LayerCache], Array | None, int], Array
]
"""(x, cos, sin, caches, first, start) -> y, as `norm_attention_residual` has them, with a cache for each block."""


def bind_blocks(
    blocks: tuple[BlockWeights, ...],
    *,
    attention_half: Callable[..., Array],
    mlp_half: Callable[..., Array],
    scale: float,
    eps: float,
    island: DType | None = None,
) -> BoundBlocks:
    """What takes x (B, T, C) through all blocks, and writes to their caches; options as the two fusions'.

    The halves are `norm_attention_residual` and `norm_mlp_residual`, as a backend has them.
    """
    norm: dict[str, Any] = {"eps": eps, "island": island}

    def step(
        x: Array,
        cos: Array,
        sin: Array,
        caches: Sequence[LayerCache],
        first: Array | None,
        start: int,
    ) -> Array:
        for block, cache in zip(blocks, caches, strict=True):
            seen = {"start": start, "scale": scale, "window": block.window}
            x = attention_half(x, *block.attention, cos, sin, cache, first, **seen, **norm)
            x = mlp_half(x, *block.mlp, **norm)
        return x

    return step
