"""A decoder's blocks for one token a row, as decoding takes them: what `block_fwd` gives, in one call for all layers.

x = x + attention(norm(x))          extends the cache            L times
x = x + mlp(norm(x))
"""

from operator import is_not
from typing import Any, NamedTuple

from xplm.config import DecoderConfig
from xplm.kernels.fusions.bind_blocks import BlockWeights, BoundBlocks
from xplm.layers.block import MIXER, MLP, MLP_NORM, NORM, block_name
from xplm.layers.context import Context
from xplm.layers.linear import read_linear
from xplm.runtime import Runtime
from xplm.specs import AttentionSpec, BlockSpec, MLPSpec, RMSNormSpec
from xplm.typing import Array, Params


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
        is_one_token = all(cos.shape[2] == 1 for cos, _ in context.ropes.values())
        return is_one_token and context.cache is not None and self._blocks() is not None

    def __call__(self, x: Array, context: Context) -> Array:
        """All blocks.   x (B, 1, C)  ->  y (B, 1, C).   The context's cache is written to."""
        cache, blocks = context.cache, self._blocks()
        assert cache is not None, "a step reads what came before it"
        assert context.rows is not None
        assert blocks is not None, "a step takes blocks like Llama's; ask `take`"
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
            or not config.ropes  # whose tables tell how many tokens a row has
            or not all(_is_like_llamas(block) for block in config.blocks)
            or len({_shared(block) for block in config.blocks}) != 1
            or any(dtype != rt.backend.xp.float32 for dtype in islands)
            or any("lora_A" in name for name in self._params)
        ):
            return None

        blocks, tables = [], {rope: number for number, rope in enumerate(config.ropes)}
        for layer, block in enumerate(config.blocks):
            name = block_name(layer)
            norms = [self._params.get(f"{name}.{MIXER}.{part}_norm.weight") for part in "qk"]
            heads = self._gather([f"{name}.{MIXER}.{part}_proj" for part in "qkvo"])
            sinks = self._params.get(f"{name}.{MIXER}.sinks")
            attention = (self._params[f"{name}.{NORM}.weight"], *heads, *norms, sinks)
            linears = self._gather([f"{name}.{MLP}.{part}_proj" for part in ("gate", "up", "down")])
            mlp_norm = NORM if block.is_parallel else MLP_NORM
            mlp = (self._params[f"{name}.{mlp_norm}.weight"], *linears)
            rope = block.mixer.rope
            facts = (block.mixer.window, block.is_parallel)
            if rope is None:
                blocks.append(BlockWeights(attention, mlp, *facts, table=None))
            else:
                blocks.append(BlockWeights(attention, mlp, *facts, tables[rope], rope.pairs))
        return rt.ops.bind_blocks(
            tuple(blocks),
            attention_half=rt.ops.norm_attention_residual,
            mlp_half=rt.ops.norm_mlp_residual,
            scale=config.blocks[0].mixer.scale,
            cap=config.blocks[0].mixer.cap,
            eps=config.blocks[0].first_norm.eps,
            island=rt.dtype.norm,
        )

    def _gather(self, names: list[str]) -> tuple[Array | None, ...]:
        """The weights of linear layers, then their biases, None where there is none."""
        weights, biases = zip(*(read_linear(self._params, name) for name in names), strict=True)
        return (*weights, *biases)


def _shared(block: BlockSpec) -> tuple[Any, ...]:
    """The facts that all blocks of a step have in common."""
    mixer = block.mixer
    norms = block.norm, block.mlp_norm, mixer.qk_norm
    return mixer.scale, mixer.cap, mixer.has_sinks, *norms


def _is_like_llamas(block: BlockSpec) -> bool:
    """Whether a block is what the two fusions compute."""
    mixer, mlp, norm = block.mixer, block.mlp, block.norm
    return (
        isinstance(norm, RMSNormSpec)
        and not norm.offset
        and block.mlp_norm == (None if block.is_parallel else norm)
        and block.mixer_output_norm is block.mlp_output_norm is None
        and block.branch_scale == 1.0
        and isinstance(mixer, AttentionSpec)
        and mixer.qk_norm in (norm, None)
        and mixer.qk_norm_over == "head"
        and mixer.clip is None
        and isinstance(mlp, MLPSpec)
        and (mlp.is_gated, mlp.activation) == (True, "silu")
    )
