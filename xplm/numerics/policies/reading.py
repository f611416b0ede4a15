"""A text read window by window under a policy, through a key/value cache of the policy's own.

The text is cut into windows that are scored alone, as perplexity is (`xplm.generate.perplexity`), and each window is
fed in chunks, so that what is held at once is a chunk's logits. Keys and values pass through the cache, and what the
policy's `cache` rounds them to is measured too.
"""

from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import NamedTuple

import numpy as np

from xplm.errors import RequestError
from xplm.generate.engine import Engine
from xplm.models import decoder
from xplm.numerics.policies.distance import NOT_SCORED, Outputs
from xplm.numerics.policies.residuals import tapped
from xplm.precision import Policy, cast
from xplm.runtime import Runtime, make_runtime
from xplm.typing import Array, Params


class Chunk(NamedTuple):
    """Some tokens of a window."""

    ids: list[int]
    targets: list[int]  # the id after each; NOT_SCORED after the window's last
    start: int  # position of the first in its window
    window: int  # tokens of the whole window


class Reader:
    """An engine at work on a window, and the owner of its cache."""

    def __init__(self, engine: Engine) -> None:
        """Nothing is read yet."""
        self.rt, self._stream = tapped(engine.rt, engine.config, engine.params)
        self._engine = engine

    def read(self, chunk: Chunk) -> Outputs:
        """Read a chunk that follows the one before, or that begins a window."""
        engine, backend = self._engine, self.rt.backend
        if chunk.start == 0:
            self._cache = engine.allocate(1, chunk.window)
        ids = backend.from_host(np.asarray([chunk.ids], np.int64))
        backend.synchronize()
        started = perf_counter()
        logits = decoder.forward(
            self.rt, engine.config, engine.params, ids, self._cache, ends=(chunk.window,)
        )
        backend.synchronize()
        seconds = perf_counter() - started

        def on_host(array: Array) -> np.ndarray:
            return backend.to_host(array)[0].astype(np.float32, copy=False)

        stream = {depth: on_host(x) for depth, x in self._stream.items()}
        return Outputs(on_host(logits), stream, seconds)


def cut(engine: Engine, ids: Sequence[int], window: int) -> list[Chunk]:
    """A text in windows, and those in chunks.

    Args:
        engine: whose context and chunks.
        ids: the text's token ids.
        window: ids to a window; the last may be shorter, down to 2.

    Raises:
        RequestError: the window is below 2 or beyond the model's context, or there are fewer than 2 ids.
    """
    if not 2 <= window <= engine.context:
        raise RequestError(
            "a window must hold at least 2 ids and at most the model's context of "
            f"{engine.context}; got {window}"
        )
    if len(ids) < 2:
        raise RequestError(f"a comparison needs a text of at least 2 ids; got {len(ids)}")
    return list(_chunks(engine, ids, window))


def recast(reference: Engine, policy: Policy, kernels: str, made: dict[object, Params]) -> Engine:
    """The same model under another policy.

    Args:
        reference: the model in float32.
        policy: the other one.
        kernels: "fused" or "portable".
        made: parameters by what they depend on, kept so that policies that share them do.

    Raises:
        BackendError: the backend lacks float64, which the policy names.
    """
    rt = make_runtime(reference.rt.backend, policy, kernels)
    key = (rt.backend.xp, policy.param)
    if key not in made:
        made[key] = _cast_params(reference, rt)
    return Engine(rt, reference.config, made[key], reference.chunk_tokens)


def _cast_params(reference: Engine, rt: Runtime) -> Params:
    to_host = reference.rt.backend.to_host
    with np.errstate(over="ignore"):  # what is too large for a format shows in every figure
        return {
            name: cast(rt.backend.from_host(to_host(array)), rt.dtype.param)
            for name, array in reference.params.items()
        }


def _chunks(engine: Engine, ids: Sequence[int], window: int) -> Iterator[Chunk]:
    for begin in range(0, len(ids), window):
        part = engine.check_ids(ids[begin : begin + window])
        if len(part) < 2:
            break
        targets = [*part[1:], NOT_SCORED]
        for start in range(0, len(part), engine.chunk_tokens):
            rows = slice(start, start + engine.chunk_tokens)
            yield Chunk(part[rows], targets[rows], start, len(part))
