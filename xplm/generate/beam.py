"""Beam search: keep the few likeliest sequences, and grow all of them at once.

    score(sequence) = sum of its tokens' log-probabilities
    rank(finished)  = score / length^length_penalty

Each step extends every beam by every token and takes the best candidates. Those that have ended go to the finished
list, if they are among the best `num_beams`; the others are the next beams. The search is over when the finished list
is full and the best beam, were it to end now, would not enter it: transformers' `early_stopping=False`, whose results
these are.
"""

from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import NamedTuple

import numpy as np

from xplm.generate.engine import Engine
from xplm.generate.reply import Reply
from xplm.generate.result import Generation, Timings
from xplm.generate.sampling import log_normaliser, make_transforms
from xplm.page_pool import PagePool, PageRow
from xplm.pages import first_key
from xplm.text.reply_parts import merge_parts


class Beam(NamedTuple):
    """A sequence under consideration."""

    ids: tuple[int, ...]  # new tokens, the prompt's left out
    logprobs: tuple[float, ...]  # of each id, the model's own
    score: float  # sum of the log-probabilities, after the penalties
    parent: int  # row of the beam it extends


def beam_steps(engine: Engine, pool: PagePool, row: PageRow, reply: Reply) -> Iterator[float]:
    """Search for the best reply.

    Args:
        engine: the decoder.
        pool: without a limit.
        row: of the pool, empty or holding a beginning of the prompt, short of all; it ends up holding the prompt.
        reply: empty; ends up holding the best sequence found.

    Yields:
        The seconds of each forward pass and of what it led to.
    """
    num_beams, length_penalty = reply.options.num_beams, reply.options.length_penalty
    running = [Beam((), (), 0.0, 0)]
    finished: list[tuple[float, Beam]] = []  # (rank, beam), best first

    started = perf_counter()
    rows: list[PageRow] = []  # a copy of the row for each beam
    try:
        logits = engine.read_on(pool, [row], [reply.prompt_ids[row.length :]])
        for length in range(1, reply.max_tokens + 1):
            candidates = _extend(running, logits, reply)
            is_end = [reply.would_end(beam.ids) for beam in candidates]

            ranked = zip(candidates[:num_beams], is_end, strict=False)
            finished += [(beam.score / length**length_penalty, beam) for beam, end in ranked if end]
            finished = sorted(finished, key=lambda pair: -pair[0])[:num_beams]

            unended = zip(candidates, is_end, strict=True)
            running = [beam for beam, end in unended if not end][:num_beams]
            is_full = len(finished) == num_beams
            if not running or (
                is_full and running[0].score / length**length_penalty <= finished[-1][0]
            ):
                break
            yield perf_counter() - started

            started = perf_counter()
            rows = _follow(rows or [row], running, is_first=length == 1)
            ids = [[*reply.prompt_ids, *beam.ids] for beam in running]
            if engine.outgrows(rows[0].length, 1):
                for own in rows:
                    own.release()
            logits = engine.read_on(
                pool, rows, [own[held.length :] for own, held in zip(ids, rows, strict=True)]
            )
    finally:
        for own in rows:
            own.release()

    _, best = finished[0]
    for token, logprob in zip(best.ids, best.logprobs, strict=True):
        reply.push(token, logprob)
    reply.parts = merge_parts(reply.parts)
    yield perf_counter() - started


def search_beams(
    engine: Engine, reply: Reply, pool: PagePool | None = None, row: PageRow | None = None
) -> Generation:
    """The best reply that beam search finds; arguments as `beam_steps`', the pool and row new where there are none."""
    if pool is None or row is None:
        pool = PagePool(engine.rt, engine.config)
        row = PageRow(pool, first_key())
    compiled_before = engine.rt.backend.compiler.compilations()
    held = row.length
    first, *rest = beam_steps(engine, pool, row, reply)
    return reply.result(
        Timings(
            prefill_tokens=len(reply.prompt_ids) - held,
            prefill_seconds=first,
            decode_tokens=len(reply.ids) - 1,
            decode_seconds=sum(rest),
            compilations=engine.rt.backend.compiler.compilations() - compiled_before,
            reused_tokens=held,
        )
    )


def _follow(rows: Sequence[PageRow], running: Sequence[Beam], *, is_first: bool) -> list[PageRow]:
    """Rows that hold what the parents of beams do. These are given back, but the first, which is the caller's."""
    followers = [rows[beam.parent].fork() for beam in running]
    for row in followers:
        row.is_kept = False
    if not is_first:
        for row in rows:
            row.release()
    return followers


def _extend(running: list[Beam], logits: np.ndarray, reply: Reply) -> list[Beam]:
    """The best continuations by one token, best first.   logits (rows, V)

    There are enough of them that num_beams remain when all the others have ended by a stop id.
    """
    logprobs = logits - log_normaliser(logits)  # (rows, V)
    vocab_size = logprobs.shape[1]
    scores = logprobs
    for transform in make_transforms(reply.options, len(reply.prompt_ids)):
        rows = zip(scores, running, strict=True)
        scores = np.stack([transform(row, [*reply.prompt_ids, *beam.ids]) for row, beam in rows])
    scores = (scores + [[beam.score] for beam in running]).ravel()  # (rows V,)

    n_best = min(max(2, 1 + len(reply.stop_ids)) * reply.options.num_beams, scores.size)
    best = np.argpartition(-scores, n_best - 1)[:n_best]
    best = best[np.argsort(-scores[best], kind="stable")]

    candidates = []
    for index in best.tolist():
        parent, token = divmod(index, vocab_size)
        beam, logprob = running[parent], float(logprobs[parent, token])
        candidates.append(
            Beam((*beam.ids, token), (*beam.logprobs, logprob), float(scores[index]), parent)
        )
    return candidates
