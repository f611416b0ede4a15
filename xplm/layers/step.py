"""A decoder's blocks for one token a row, as decoding takes them: what `block_fwd` gives, in one call for all layers.

x = x + c m(attention(norm(x)))     extends the cache            L times
x = x + c f(mlp(mlp_norm(x)))
"""

from operator import is_not
from typing import Any, NamedTuple

from xplm.config import DecoderConfig
from xplm.kernels.fusions.bind_blocks import BlockWeights, BoundBlocks, Half
from xplm.kernels.rope import HALVES
from xplm.layers.block import (
    MIXER,
    MIXER_OUTPUT_NORM,
    MLP,
    MLP_NORM,
    MLP_OUTPUT_NORM,
    NORM,
    block_name,
    mlp_half_fwd,
)
from xplm.layers.context import Context
from xplm.layers.linear import read_linear
from xplm.layers.norm import bind_norm, fusion_kind
from xplm.runtime import Runtime
from xplm.specs import AttentionSpec, BlockSpec, ExpertsSpec, MLPSpec, NormSpec
from xplm.typing import Array, Params

MLP_PARTS = ("gate", "up", "down")


class _Bound(NamedTuple):
    names: list[str]
    arrays: list[Array]
    blocks: BoundBlocks | None  # None if they take no steps


class Steps:
    """All blocks, bound to a model's parameters; bound anew at the first step after one of those was replaced.

    Until then what was replaced stays in memory.
    """

    def __init__(self, rt: Runtime, config: DecoderConfig, params: Params) -> None:
        """Nothing is bound before the first step."""
        self._rt, self._config, self._params = rt, config, params
        self._last = _Bound([], [], None)

    def take(self, context: Context) -> bool:
        """Whether a step gives what `block_fwd` gives.

        False for several tokens a row, an adapter, an island other than float32, a block that the fusions do not
        compute, or where the runtime lacks one of the three decode fusions.
        """
        lengths = [cos.shape[2] for cos, _ in context.ropes.values()]
        if context.positions is not None:
            lengths.append(context.positions.shape[1])
        is_one_token = all(length == 1 for length in lengths)
        return is_one_token and context.cache is not None and self._blocks() is not None

    def __call__(self, x: Array, context: Context) -> Array:
        """All blocks.   x (B, 1, C)  ->  y (B, 1, C).   The context's cache is written to."""
        cache, blocks = context.cache, self._blocks()
        assert cache is not None, "a step reads what came before it"
        assert context.rows is not None
        assert blocks is not None, "a step takes blocks that the fusions compute; ask `take`"
        caches = [cache.of_layer(layer) for layer in range(self._config.num_hidden_layers)]
        tables = [context.ropes[rope] for rope in self._config.ropes]
        return blocks(x, tables, caches, context.rows)

    def _blocks(self) -> BoundBlocks | None:
        """The blocks with the parameters as they are now."""
        names, arrays = list(self._params), list(self._params.values())
        last = self._last
        if names != last.names or any(map(is_not, arrays, last.arrays)):
            last = self._last = _Bound(names, arrays, self._bind())
        return last.blocks

    def _bind(self) -> BoundBlocks | None:
        rt, config = self._rt, self._config
        islands = (rt.dtype.norm, rt.dtype.rope, rt.dtype.softmax)
        if (
            not rt.has("bind_blocks", "norm_attention_residual", "norm_mlp_residual")
            or not (config.ropes or config.has_learned_positions)  # which tell a row's tokens
            or not all(_is_taken(block) for block in config.blocks)
            or len({_shared(block) for block in config.blocks}) != 1
            or len({(mlp.is_gated, mlp.activation) for mlp in _dense(config)}) > 1
            or any(dtype != rt.backend.xp.float32 for dtype in islands)
            or any("lora_A" in name for name in self._params)
        ):
            return None

        first, dense = config.blocks[0], _dense(config)
        return rt.ops.bind_blocks(
            tuple(self._weights(layer) for layer in range(config.num_hidden_layers)),
            attention_half=rt.ops.norm_attention_residual,
            mlp_half=rt.ops.norm_mlp_residual,
            scale=first.mixer.scale,
            cap=first.mixer.cap,
            activation=dense[0].activation if dense else "silu",
            branch_scale=first.branch_scale,
            norm_kind=fusion_kind(first.first_norm),
            eps=first.first_norm.eps,
            island=rt.dtype.norm,
        )

    def _weights(self, layer: int) -> BlockWeights:
        """One block's arrays and facts."""
        block, name, C = self._config.blocks[layer], block_name(layer), self._config.hidden_size
        mixer, rope = f"{name}.{MIXER}", block.mixer.rope
        norm = self._norm(block.norm, f"{name}.{NORM}", C)
        heads = self._gather([f"{mixer}.{part}_proj" for part in "qkvo"])
        of_heads = [
            self._norm(block.mixer.qk_norm, f"{mixer}.{part}_norm", block.mixer.head_dim)
            for part in "qk"
        ]
        sinks = self._params.get(f"{mixer}.sinks")
        return BlockWeights(
            (norm, *heads, *of_heads, sinks),
            self._mlp(layer, block.mlp, norm),
            window=block.mixer.window,
            is_parallel=block.is_parallel,
            table=None if rope is None else self._config.ropes.index(rope),
            pairs=HALVES if rope is None else rope.pairs,
            output_norms=(
                self._norm(block.mixer_output_norm, f"{name}.{MIXER_OUTPUT_NORM}", C),
                self._norm(block.mlp_output_norm, f"{name}.{MLP_OUTPUT_NORM}", C),
            ),
        )

    def _mlp(
        self, layer: int, mlp: MLPSpec | ExpertsSpec, norm: Array | None
    ) -> tuple[Array | None, ...] | Half:
        """The arrays of a block's second half; of a routed one what computes it. `norm` is the first half's."""
        rt, block, name = self._rt, self._config.blocks[layer], block_name(layer)
        if isinstance(mlp, ExpertsSpec):
            context = Context(None, {}, None, None, layer)
            return lambda x, y: mlp_half_fwd(rt, block, self._params, layer, x, y, context)
        if not block.is_parallel or block.mlp_norm is not None:
            norm = self._norm(block.mlp_norm, f"{name}.{MLP_NORM}", self._config.hidden_size)
        if mlp.is_gated:
            return norm, *self._gather([f"{name}.{MLP}.{part}_proj" for part in MLP_PARTS])
        up, down, up_bias, down_bias = self._gather(
            [f"{name}.{MLP}.{part}_proj" for part in MLP_PARTS[1:]]
        )
        return norm, None, up, down, None, up_bias, down_bias

    def _norm(self, spec: NormSpec | None, name: str, width: int) -> Array | None:
        return None if spec is None else bind_norm(self._rt, spec, self._params, name, width)

    def _gather(self, names: list[str]) -> tuple[Array | None, ...]:
        """The weights of linear layers, then their biases, None where there is none."""
        weights, biases = zip(*(read_linear(self._params, name) for name in names), strict=True)
        return (*weights, *biases)


def _dense(config: DecoderConfig) -> list[MLPSpec]:
    """The MLPs that are not routed."""
    return [block.mlp for block in config.blocks if isinstance(block.mlp, MLPSpec)]


def _shared(block: BlockSpec) -> tuple[Any, ...]:
    """The facts that all blocks of a step have in common, but for those of their MLPs."""
    mixer = block.mixer
    heads = mixer.scale, mixer.cap, mixer.has_sinks, mixer.qk_norm_over
    return *heads, *_norms(block), block.branch_scale


def _norms(block: BlockSpec) -> tuple[NormSpec | None, ...]:
    outputs = block.mixer_output_norm, block.mlp_output_norm
    return block.norm, block.mlp_norm, block.mixer.qk_norm, *outputs


def _is_taken(block: BlockSpec) -> bool:
    """Whether the fusions compute a block, an MLP of experts aside: all of its norms are of one kind."""
    if not isinstance(block.mixer, AttentionSpec) or block.mixer.clip is not None:
        return False
    norms = {(fusion_kind(norm), norm.eps) for norm in _norms(block) if norm is not None}
    return len(norms) == 1
