"""Many replies at once: requests join and leave between passes, and share the memory of one pool of pages.

A step is at most two passes: one token of each reply that has begun, and then a chunk of one prompt, so that a long
prompt holds nobody up for longer than a few tokens take. Where the pool is full, the reply that was admitted last gives
its pages back and waits; when there is room, its tokens are computed again. What a pass computes of a row depends on
that row alone, and a coin on the seed and the position; so what a reply becomes does not depend on who else is there,
up to rounding, and with order-invariant kernels not at all.

Source: the step is that of Yu et al., "Orca" (OSDI 2022), its memory that of Kwon et al., "PagedAttention",
arXiv:2309.06180; chunks between tokens are Agrawal et al., "Sarathi", arXiv:2308.16369.
"""

from collections.abc import Sequence
from time import perf_counter
from typing import NamedTuple

import numpy as np

from xplm.errors import RequestError
from xplm.generate.engine import Engine
from xplm.generate.prompt_scores import PromptScores
from xplm.generate.reply import Reply
from xplm.generate.result import Generation, Timings
from xplm.out_of_memory import format_bytes
from xplm.paged_cache import PagePool, PageRow
from xplm.pages import first_key
from xplm.rope_scaling import table_name
from xplm.text.reply_parts import Part

MOST_ROWS = 32
"""Replies that grow at a time, unless told."""

PATIENCE = 2.0
"""How long a chunk of a prompt may take where replies are under way, in passes of theirs."""

LEAST_CHUNK = 16
"""Tokens of such a chunk, at least."""

SCORED_CHUNK = 64
"""Tokens of a chunk of a prompt whose every token has its logits computed, at most."""


class Request:
    """A reply that is asked for, and what serving it has taken so far."""

    def __init__(self, reply: Reply, owner: str = "", *, scores_prompt: bool = False) -> None:
        """Nothing is computed yet.

        Args:
            reply: empty.
            owner: whose it is; a beginning of a text is shared between requests of one owner alone.
            scores_prompt: whether the log-probabilities of the prompt's tokens are asked for, too. Such a prompt is
                read from its first token on.
        """
        self.reply = reply
        self.owner = owner
        n_top = reply.options.top_logprobs
        self.prompt_scores = PromptScores(reply.prompt_ids, n_top) if scores_prompt else None
        self.row: PageRow | None = None  # None while it waits
        self.reused_tokens = 0
        """Tokens whose keys and values were there already."""
        self.computed_tokens = 0
        """Tokens of the prompt that were computed, more than once after it had to give its pages back."""
        self.times: list[float] = [perf_counter()]  # asked for, admitted, first token, last so far
        self.compilations = 0

    @property
    def ids(self) -> list[int]:
        """The prompt and what follows it."""
        return self.reply.prompt_ids + self.reply.ids

    @property
    def n_unread(self) -> int:
        """Tokens whose keys and values are not stored."""
        held = 0 if self.row is None else self.row.length
        return len(self.reply.prompt_ids) + len(self.reply.ids) - held

    @property
    def is_scoring(self) -> bool:
        """Whether tokens of the prompt are still to be scored."""
        return self.prompt_scores is not None and not self.prompt_scores.is_complete

    def result(self) -> Generation:
        """The finished reply."""
        _, admitted, first, last = self.times
        return self.reply.result(
            Timings(
                prefill_tokens=self.computed_tokens,
                prefill_seconds=first - admitted,
                decode_tokens=len(self.reply.ids) - 1,
                decode_seconds=last - first,
                compilations=self.compilations,
                reused_tokens=self.reused_tokens,
            )
        )


class Event(NamedTuple):
    """What a pass gave to one request."""

    request: Request
    parts: list[Part]  # that can be shown now
    error: RequestError | None = None  # why it ended without a reply


class Scheduler:
    """Serves requests, in steps. One thread calls it."""

    def __init__(
        self,
        engine: Engine,
        pool: PagePool,
        *,
        most_rows: int = MOST_ROWS,
        keeps_prefixes: bool = True,
        reserves_all: bool = False,
    ) -> None:
        """Nobody is served yet.

        Args:
            engine: the decoder.
            pool: where rows hold their keys and values.
            most_rows: replies that grow at a time; others wait.
            keeps_prefixes: whether what a reply has computed is kept for a later one that begins alike.
            reserves_all: whether a row takes pages at once for all that it may become, so that they lie side by side.
        """
        self._engine, self.pool, self._ropes = engine, pool, engine.config.ropes
        self._most_rows, self._keeps_prefixes = most_rows, keeps_prefixes
        self._reserves_all = reserves_all
        self.waiting: list[Request] = []  # in the order in which they are admitted
        self.admitted: list[Request] = []  # likewise
        self.preemptions = 0
        """Times that a request had to give its pages back."""
        self._decode_seconds = self._token_seconds = 0.0  # of the last pass; of a prompt's token

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits or is served."""
        return not self.waiting and not self.admitted

    def submit(self, request: Request) -> None:
        """Take a request in. It may bring a row of the pool that holds a beginning of its prompt, short of all.

        Raises:
            RequestError: the pool could not hold the reply even by itself.
        """
        n_tokens = len(request.reply.prompt_ids) + request.reply.max_tokens
        needed, limit = self.pool.count_bytes(n_tokens), self.pool.limit_bytes
        if limit is not None and needed > limit:
            raise RequestError(
                f"a prompt and its reply must fit the cache of {format_bytes(limit)}; {n_tokens} tokens take "
                f"{format_bytes(needed)}; ask for fewer new tokens, or give the cache more memory"
            )
        request.compilations = -self._engine.rt.backend.compiler.compilations()
        self.waiting.append(request)

    def cancel(self, request: Request) -> None:
        """Stop serving a request, at any time; what it holds is given back."""
        for requests in (self.waiting, self.admitted):
            if request in requests:
                requests.remove(request)
        self._give_back(request)

    def step(self) -> list[Event]:
        """Serve whoever can be served.

        Returns:
            What each pass gave; a request whose reply has a finish reason, or an error, is served no more.

        Raises:
            OutOfMemoryError: an allocation failed; nobody has lost anything.
        """
        for request in self.admitted:
            self._rotate_anew(request)
        self._admit()
        begun = [r for r in self.admitted if r.n_unread == 1]
        decoding = [r for r in begun if self._reserve(r, 1)]
        decoding = [
            r for r in decoding if r.row is not None
        ]  # nobody who had to make room for another
        events = self._pass(decoding, 1) if decoding else []

        reading = next((r for r in self.admitted if r.n_unread > 1), None)
        if reading is not None:
            count = self._chunk(reading, has_company=bool(decoding))
            if self._reserve(reading, count):
                events += self._pass([reading], count)
        return events

    def _admit(self) -> None:
        """Let those in who wait, for as long as there is room for what they are about to read."""
        while self.waiting and len(self.admitted) < self._most_rows:
            request = self.waiting[0]
            if request.row is None:
                request.row = self._acquire(request)
            count = request.n_unread
            if self._reserves_all:
                count = (
                    len(request.reply.prompt_ids) + request.reply.max_tokens - request.row.length
                )
            if not request.row.reserve(count):
                assert self.admitted, (
                    "a request that fits the pool finds room there once it is alone"
                )
                self._give_back(request)
                return
            if len(request.times) == 1:
                request.times.append(perf_counter())
                request.reused_tokens = request.row.length
            self.admitted.append(self.waiting.pop(0))
            if request.n_unread > 1:
                return  # one prompt at a time: who begins alike finds its pages later

    def _acquire(self, request: Request) -> PageRow:
        ids = request.ids[:1] if request.is_scoring else request.ids
        table = table_name(self._ropes, self._end(request, 0))
        row = self.pool.acquire(ids, first_key(request.owner, table))
        row.is_kept = self._keeps_prefixes
        return row

    def _rotate_anew(self, request: Request) -> None:
        """Begin again where a reply has grown past the trained length of longrope."""
        row, has_long_factors = request.row, self._engine.has_long_factors
        if row is None or row.length == 0:
            return
        if has_long_factors(row.length) != has_long_factors(len(request.ids)):
            row.release()
            request.row = self._acquire(request)

    def _reserve(self, request: Request, count: int) -> bool:
        """Make room for more tokens of an admitted request; False if it had to give way itself."""
        while request.row is not None and not request.row.reserve(count):
            last = self.admitted.pop()
            self._give_back(last)
            self.waiting.insert(0, last)
            self.preemptions += 1
        return request.row is not None

    def _chunk(self, request: Request, *, has_company: bool) -> int:
        """How many tokens of a prompt to read: such as one table rotates, and no more than others bear."""
        assert request.row is not None
        most = min(request.n_unread, self._engine.chunk_tokens)
        if request.is_scoring:
            most = min(most, SCORED_CHUNK)
        if has_company and self._token_seconds > 0:
            patient = int(PATIENCE * self._decode_seconds / self._token_seconds)
            most = min(most, max(LEAST_CHUNK, patient // LEAST_CHUNK * LEAST_CHUNK))
        begin, count = request.row.length, 1
        table = table_name(self._ropes, self._end(request, begin))
        while count < most and table_name(self._ropes, self._end(request, begin + count)) == table:
            count += 1
        return count

    def _end(self, request: Request, slot: int) -> int:
        """The length by which a token is rotated: the prompt's or, behind it, its own; all there is by long factors."""
        if self._engine.has_long_factors(len(request.ids)):
            return len(request.ids)
        return max(len(request.reply.prompt_ids), slot + 1)

    def _pass(self, requests: Sequence[Request], count: int) -> list[Event]:
        """Read the next `count` tokens of each, and choose the next of those that have read all."""
        begun = perf_counter()
        rows = [r.row for r in requests if r.row is not None]
        ids = [
            r.ids[row.length : row.length + count] for r, row in zip(requests, rows, strict=True)
        ]
        ends = [self._end(r, row.length + count - 1) for r, row in zip(requests, rows, strict=True)]
        for request, row, end in zip(requests, rows, ends, strict=True):
            if row.length < len(request.reply.prompt_ids):
                request.computed_tokens += count
            if table_name(self._ropes, end) != table_name(self._ropes, self._end(request, 0)):
                row.is_kept = False  # the beginning is rotated otherwise
        is_scoring = any(request.is_scoring for request in requests)
        logits = self._engine.read(self.pool, rows, ids, ends, last_only=not is_scoring)
        seconds = perf_counter() - begun
        if count == 1:
            self._decode_seconds = seconds
        else:
            self._token_seconds = seconds / count
        pairs = zip(requests, logits, strict=True)
        events = [self._take(request, scores) for request, scores in pairs]
        return [event for event in events if event is not None]

    def _take(self, request: Request, logits: np.ndarray) -> Event | None:
        """Score a prompt's tokens and choose the next token, as far as it is time.   logits (V,) or (T, V)"""
        parts: list[Part] = []
        try:
            if logits.ndim == 2:
                if request.prompt_scores is not None and request.row is not None:
                    request.prompt_scores.push(request.row.length - len(logits), logits)
                logits = logits[-1]
            if request.n_unread > 0:
                return None
            parts, error = request.reply.advance(logits), None
        except RequestError as refused:
            error = refused
        now = perf_counter()
        request.times = (
            [*request.times[:3], now] if len(request.times) > 2 else [*request.times, now, now]
        )
        if error is not None or request.reply.finish_reason is not None:
            request.compilations += self._engine.rt.backend.compiler.compilations()
            self.admitted.remove(request)
            self._give_back(request)
        return Event(request, parts, error)

    def _give_back(self, request: Request) -> None:
        if request.row is not None:
            request.row.release()
            request.row = None
