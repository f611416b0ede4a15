"""The generation loop: feed the prompts, then one token a row and step, until every row has ended."""

from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import NamedTuple

from xplm.cache import KVCache
from xplm.generate.engine import Engine
from xplm.generate.reply import Reply
from xplm.generate.result import Timings
from xplm.text.reply_parts import Part


class Step(NamedTuple):
    """One forward pass, and what came of it."""

    parts: list[tuple[int, Part]]  # (row, part that can be shown now)
    seconds: float


def generate_steps(engine: Engine, cache: KVCache, replies: Sequence[Reply]) -> Iterator[Step]:
    """Grow replies together, one row each, until all have ended.

    A row that has ended leaves the batch. Because a token's choice depends on its own row alone, each reply is what it
    would be by itself, up to rounding.

    Args:
        engine: the decoder.
        cache: with room for the longest prompt and its reply; empty, or, for a single reply, holding a beginning of
            its prompt that is short of all of it.
        replies: at least one, all empty.

    Yields:
        A step for every forward pass; the first is the prefill. `cache` itself holds a single reply's prompt and all
        of its tokens but the last.
    """
    started = perf_counter()
    rows = list(range(len(replies)))
    ids = [reply.prompt_ids[cache.length :] for reply in replies]
    while rows:
        if engine.outgrows(cache, ids):
            cache.rollback(0)
            ids = [[*replies[row].prompt_ids, *replies[row].ids] for row in rows]
        logits = engine.feed(cache, ids)
        parts = [
            (row, part) for i, row in enumerate(rows) for part in replies[row].advance(logits[i])
        ]
        yield Step(parts, perf_counter() - started)

        started = perf_counter()
        running = [i for i, row in enumerate(rows) if replies[row].finish_reason is None]
        if running and len(running) < len(rows):
            cache = cache.select(running)
        rows = [rows[i] for i in running]
        ids = [replies[row].ids[-1:] for row in rows]


def sum_timings(
    engine: Engine,
    replies: Sequence[Reply],
    prefill_tokens: int,
    seconds: Sequence[float],
    compiled_before: int,
) -> Timings:
    """Timings of finished replies, from the seconds of each step and the backend's compilations before the first."""
    return Timings(
        prefill_tokens=prefill_tokens,
        prefill_seconds=seconds[0],
        decode_tokens=sum(len(reply.ids) - 1 for reply in replies),
        decode_seconds=sum(seconds[1:]),
        compilations=engine.rt.backend.compiler.compilations() - compiled_before,
    )
