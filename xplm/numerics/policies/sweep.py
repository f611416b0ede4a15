"""Several policies side by side through one text, each compared with float32 token by token.

All policies take a chunk of the text in turn, then all take the next: what float32 makes of a chunk is computed once,
and dropped when the last policy has been compared with it; and whenever the sweep is stopped, every policy has been
measured on the same tokens.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from xplm.errors import RequestError
from xplm.generate.engine import Engine
from xplm.numerics.policies.cost import count_numbers, part_bytes
from xplm.numerics.policies.distance import Tally, compare, make_reference
from xplm.numerics.policies.reading import Reader, cut, recast
from xplm.precision import Policy
from xplm.typing import Params

REFERENCE = Policy()
"""float32 throughout: what every policy is compared with."""


class SweepProgress(NamedTuple):
    """How far a sweep is."""

    policy: str  # the last that read a chunk
    n_read: int  # chunks, all policies together
    n_chunks: int  # in all
    tallies: Mapping[str, Tally]  # by policy, over the chunks that all have read


def sweep(
    reference: Engine, policies: Sequence[str], ids: Sequence[int], *, window: int, kernels: str
) -> Iterator[SweepProgress]:
    """Read a text under each policy.

    Args:
        reference: the model in float32.
        policies: their texts.
        ids: the text's token ids.
        window: ids to a window, each of which is read alone.
        kernels: "fused" or "portable".

    Yields:
        After each chunk of each policy, and once more when all policies have read the chunk.

    Raises:
        RequestError: a policy's text or the window is not good, or float32 itself gives logits that are not finite.
        BackendError: the backend lacks float64, which a policy names.
    """
    if reference.rt.policy != REFERENCE:
        raise RequestError(f"a sweep compares with fp32; got {reference.rt.policy} to compare with")
    names = list(dict.fromkeys(str(Policy.parse(text)) for text in policies))
    if not names:
        raise RequestError("a sweep needs a policy to compare; got none")
    chunks = cut(reference, ids, window)
    made: dict[object, Params] = {(reference.rt.backend.xp, REFERENCE.param): reference.params}
    readers = {
        name: Reader(recast(reference, Policy.parse(name), kernels, made))
        for name in names
        if Policy.parse(name) != REFERENCE
    }
    standard = Reader(reference)
    n_total, n_read = len(chunks) * (1 + len(readers)), 0

    tallies: dict[str, Tally] = {}
    for chunk in chunks:
        outputs = standard.read(chunk)
        right = make_reference(outputs)
        n_read += 1
        yield SweepProgress(str(REFERENCE), n_read, n_total, tallies)

        found = {}
        for name in names:
            with np.errstate(all="ignore"):  # what overflows shows in the figures
                own = readers[name].read(chunk) if name in readers else outputs
                found[name] = compare(right, own, chunk.targets, chunk.start)
            if name in readers:
                n_read += 1
                yield SweepProgress(name, n_read, n_total, tallies)
        tallies = {name: tallies[name] + t if tallies else t for name, t in found.items()}
        yield SweepProgress(names[-1], n_read, n_total, tallies)


def row(engine: Engine, name: str, tally: Tally, window: int) -> dict[str, Any]:
    """One policy's figures by name, as the table, the JSON file and the picture take them.

    Args:
        engine: the model's.
        name: the policy.
        tally: what was measured.
        window: tokens that the cache holds.
    """
    cost = part_bytes(Policy.parse(name), count_numbers(engine.config, window))
    return {
        "policy": name,
        "perplexity": tally.perplexity,
        "loss": tally.mean_loss,
        "kl": tally.mean_kl,
        "agreement": tally.agreement,
        "max_logit_error": tally.max_error,
        "drift_by_layer": tally.mean_drift,
        "kl_by_position": [{"from": first, "kl": kl} for first, kl in tally.kl_by_position],
        "param_bytes": cost["param"],
        "cache_bytes": cost["cache"],
        "tokens_per_s": tally.tokens_per_s,
        "tokens": tally.n_tokens,
        "scored": tally.n_scored,
        "broken": tally.n_broken,
    }


def peak_bytes(engine: Engine, window: int) -> int:
    """The most memory that this process has held, once the last chunk of a full window is read.

    Honest only in a process that has done nothing else: a peak does not go down.
    """
    cache = engine.allocate(1, window)
    n_tokens = min(engine.chunk_tokens, window)
    cache.advance((window - n_tokens,))  # zeros take as much memory as keys and values do
    with np.errstate(all="ignore"):
        engine.feed(cache, [[0] * n_tokens])
    return engine.rt.backend.memory().peak
