"""Beam search: keep the few likeliest sequences, and grow all of them at once.

    score(sequence) = sum of its tokens' log-probabilities
    rank(finished)  = score / length^length_penalty

Each step extends every beam by every token and takes the best candidates. Those that have ended go to the finished
list, if they are among the best `num_beams`; the others are the next beams. The search is over when the finished list
is full and the best beam, were it to end now, would not enter it: transformers' `early_stopping=False`, whose results
these are.
"""

from collections.abc import Iterator
from time import perf_counter
from typing import NamedTuple

import numpy as np

from xplm.cache import KVCache
from xplm.generate.decode import Step
from xplm.generate.engine import Engine
from xplm.generate.reply import Reply
from xplm.generate.sampling import log_normaliser, make_transforms
from xplm.text.reply_parts import merge_parts


class Beam(NamedTuple):
    """A sequence under consideration."""

    ids: tuple[int, ...]  # new tokens, the prompt's left out
    logprobs: tuple[float, ...]  # of each id, the model's own
    score: float  # sum of the log-probabilities, after the penalties
    parent: int  # row of the beam it extends


def beam_steps(engine: Engine, cache: KVCache, reply: Reply) -> Iterator[Step]:
    """Search for the best reply.

    Args:
        engine: the decoder.
        cache: one row with room for the prompt, empty or holding a beginning of it; it ends up holding the prompt.
        reply: empty; ends up holding the best sequence found.

    Yields:
        A step for every forward pass; the last carries all parts.
    """
    num_beams, length_penalty = reply.options.num_beams, reply.options.length_penalty
    running = [Beam((), (), 0.0, 0)]
    finished: list[tuple[float, Beam]] = []  # (rank, beam), best first

    started = perf_counter()
    logits = engine.feed(cache, [reply.prompt_ids[cache.length :]])
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
        yield Step([], perf_counter() - started)

        started = perf_counter()
        parents = [beam.parent for beam in running]
        # The first selection copies in any case: the caller's cache keeps the prompt and nothing else.
        if length == 1 or parents != list(range(cache.batch)):
            cache = cache.select(parents)
        rows = [beam.ids[-1:] for beam in running]
        if engine.outgrows(cache, rows):
            cache.rollback(0)
            rows = [(*reply.prompt_ids, *beam.ids) for beam in running]
        logits = engine.feed(cache, rows)

    _, best = finished[0]
    pairs = zip(best.ids, best.logprobs, strict=True)
    parts = merge_parts([part for token, logprob in pairs for part in reply.push(token, logprob)])
    yield Step([(0, part) for part in parts], perf_counter() - started)


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
