"""The peak of generation's memory, foretold from the model's configuration.

All through it lie there the weights and the cache; beside them, whichever is more, with A what a block saves:

    prefill      A + scratch       of one chunk of the prompt
    logits       of the last position, and those before them

`xplm.models.memory` has A and the scratch; keys and values lie in the cache instead. Decoding's own arrays are a
chunk of one token's. Where no fused kernel widens weights as it reads them, the largest is there in float32 too.
"""

from xplm.backend import DeviceMemory
from xplm.cache import KVCache
from xplm.config import DecoderConfig
from xplm.generate.engine import Engine
from xplm.memory_plan import MemoryPlan, Moment, plan_peak
from xplm.models.decoder import param_specs
from xplm.models.memory import block_saved, forward_scratch, largest_activation, widths
from xplm.params import count_params
from xplm.runtime import Runtime

CACHED = ("attention.k", "attention.v")


def count_weights(rt: Runtime, config: DecoderConfig) -> int:
    """Bytes of a model's parameters."""
    return count_params(param_specs(config)) * rt.host_dtype.param.itemsize


def plan_generation(
    engine: Engine, process: DeviceMemory, *, prompt_tokens: int, new_tokens: int, batch: int = 1
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


def _widened(rt: Runtime, config: DecoderConfig) -> int:
    """The largest weight in the dtype that products run in, where it is not there already."""
    w = widths(rt, config)
    largest = max(spec.size for spec in param_specs(config).values())
    return largest * w.wide if w.is_narrow and w.is_portable else 0
