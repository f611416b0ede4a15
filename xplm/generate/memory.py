"""The peak of generation's memory, predicted from the model's configuration.

The weights and the cache stay allocated. Beside them, at the larger of two moments, with A what a block saves:

    prefill      A + scratch       of one chunk of the prompt
    logits       of the last position, and those before them

`xplm.models.memory` has A and the scratch; keys and values are in the cache instead. Decoding's own arrays are a
chunk of one token's. Where no fused kernel widens weights as it reads them, the largest is allocated in float32 too.
"""

from typing import TYPE_CHECKING

from xplm.backend import DeviceMemory
from xplm.cache import KVCache
from xplm.config import DecoderConfig
from xplm.memory_plan import MemoryPlan, Moment, plan_peak
from xplm.models.decoder import param_specs
from xplm.models.memory import block_saved, forward_scratch, largest_activation, widths
from xplm.params import count_params
from xplm.runtime import Runtime

if TYPE_CHECKING:
    from xplm.generate.engine import Engine

CACHED = ("attention.k", "attention.v")


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
    n = batch * min(prompt_tokens, engine.chunk_tokens)
    saved = block_saved(rt, config, n)
    block = sum(n_bytes for name, n_bytes in saved.items() if name not in CACHED)
    scratch = forward_scratch(rt, config, n, batch * capacity)
    widened = _widened(rt, config)

    def moment(name: str, activations: int, logits: int = 0) -> Moment:
        parts = {
            "weights": count_weights(rt, config),
            "cache": KVCache.count_bytes(rt, config, batch, capacity),
            "activations": widened + activations,
        }
        return Moment(name, parts | {"logits": logits})

    logits = batch * config.vocab_size * rt.host_dtype.loss.itemsize
    moments = [moment("prefill", block + scratch), moment("logits", 0, 2 * logits)]
    return plan_peak(process, moments, max(logits, largest_activation(rt, config, n)))


def count_logits(rt: Runtime, config: DecoderConfig, n_tokens: int, *, copies: int = 0) -> int:
    """Bytes beside the weights that logits at every position of one sequence take, in one pass without a cache.

    Args:
        rt: kernels and dtypes.
        config: the model's.
        n_tokens: of the sequence.
        copies: float32 arrays of their shape that are made of them on the host.
    """
    block = sum(block_saved(rt, config, n_tokens).values())
    scratch = forward_scratch(rt, config, n_tokens, n_tokens)
    itemsize = rt.host_dtype.loss.itemsize
    converted = 0 if itemsize == 4 else 4
    logits = n_tokens * config.vocab_size * (itemsize + converted + 4 * copies)
    return _widened(rt, config) + max(block + scratch, logits)


def _widened(rt: Runtime, config: DecoderConfig) -> int:
    """The largest weight in the dtype that products run in, where it is not there already."""
    w = widths(rt, config)
    largest = max(spec.size for spec in param_specs(config).values())
    return largest * w.wide if w.is_narrow and w.is_portable else 0
