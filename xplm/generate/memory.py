"""The peak of generation's memory, predicted from the model's configuration.

The weights and the cache stay allocated. Next to them, at the larger of two moments:

    prefill      a block's forward pass over one chunk of the prompt, or of all where longrope has it computed again
                 (`xplm.models.memory`)
    logits       of the last position, and those before them; the head, where no fused kernel widens it in parts

Decoding's own arrays are a chunk of one token's.
"""

from typing import TYPE_CHECKING

from xplm.backend import DeviceMemory
from xplm.cache import KVCache
from xplm.config import DecoderConfig
from xplm.memory_plan import MemoryPlan, Moment, plan_peak
from xplm.models.counted_ops import is_fused
from xplm.models.decoder import param_specs
from xplm.models.memory import measure_blocks
from xplm.params import count_params
from xplm.runtime import Runtime

if TYPE_CHECKING:
    from xplm.generate.engine import Engine


def count_weights(rt: Runtime, config: DecoderConfig) -> int:
    """Bytes of a model's parameters."""
    return count_params(param_specs(config)) * rt.host_dtype.param.itemsize


def plan_generation(
    engine: "Engine", process: DeviceMemory, *, prompt_tokens: int, new_tokens: int, batch: int = 1
) -> MemoryPlan:
    """The peak of generation.

    Args:
        engine: the decoder, and what it reads at once.
        process: what the process holds beside the weights.
        prompt_tokens: of a row.
        new_tokens: decoded, of a row.
        batch: rows.
    """
    rt, config = engine.rt, engine.config
    capacity = prompt_tokens + new_tokens
    is_long = engine.has_long_factors
    is_read_again = is_long(capacity) and not is_long(prompt_tokens)  # at the trained length
    tokens = min(capacity if is_read_again else prompt_tokens, engine.chunk_tokens)
    block, largest = _forward(rt, config, batch, tokens, capacity=capacity)

    def moment(name: str, activations: int, logits: int = 0) -> Moment:
        parts = {
            "weights": count_weights(rt, config),
            "cache": KVCache.count_bytes(rt, config, batch, capacity),
            "activations": activations,
        }
        return Moment(name, parts | {"logits": logits})

    logits = batch * config.vocab_size * rt.host_dtype.loss.itemsize
    moments = [moment("prefill", block), moment("logits", _widened_head(rt, config), 2 * logits)]
    return plan_peak(process, moments, max(logits, largest))


def count_logits(rt: Runtime, config: DecoderConfig, n_tokens: int, *, copies: int = 0) -> int:
    """Bytes beside the weights that logits at every position of one sequence take, in one pass without a cache.

    Args:
        rt: kernels and dtypes.
        config: the model's.
        n_tokens: of the sequence.
        copies: float32 arrays of their shape that are made of them on the host.
    """
    itemsize = rt.host_dtype.loss.itemsize
    converted = 0 if itemsize == 4 else 4
    logits = n_tokens * config.vocab_size * (itemsize + converted + 4 * copies)
    return max(_forward(rt, config, 1, n_tokens)[0], _widened_head(rt, config) + logits)


def _forward(
    rt: Runtime, config: DecoderConfig, batch: int, tokens: int, *, capacity: int | None = None
) -> tuple[int, int]:
    """Bytes of the block that takes the most, and of the largest array."""
    blocks = measure_blocks(rt, config, batch, tokens, capacity=capacity).values()
    return max(block.forward for block in blocks), max(block.largest for block in blocks)


def _widened_head(rt: Runtime, config: DecoderConfig) -> int:
    """The head in the dtype that products run in, where it is not there already."""
    if is_fused(rt, "linear_fwd") or rt.host_dtype.param.itemsize >= 4:
        return 0
    return 4 * config.vocab_size * config.hidden_size
