"""Many replies at once: requests join and leave between passes, and share the memory of one pool of pages.

A step is one token of each reply that has begun, and then chunks of prompts, one after another: while replies grow, so
many tokens of prompts that nobody is held up for longer than a few tokens take. Where the pool is full, the reply that
was admitted last gives its pages back and waits; when there is room, its tokens are computed again. What a pass
computes of a row depends on that row alone, and a coin on the seed and the position; so what a reply becomes does not
depend on who else is there, up to rounding, and with order-invariant kernels not at all.

Source: the step is that of Yu et al., "Orca" (OSDI 2022), its memory that of Kwon et al., "PagedAttention",
arXiv:2309.06180; chunks between tokens are Agrawal et al., "Sarathi", arXiv:2308.16369.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import compress
from time import perf_counter

import numpy as np

from xplm.errors import OutOfMemoryError, RequestError, XplmError
from xplm.generate.engine import Engine
from xplm.generate.reply import advance
from xplm.generate.request import Event, Request
from xplm.out_of_memory import format_bytes
from xplm.page_pool import PagePool, PageRow
from xplm.pages import first_key
from xplm.progress import READING
from xplm.rope_scaling import depend_on_length, table_name
from xplm.text.reply_parts import Part
from xplm.threads import count_cpus

MOST_ROWS = 32
"""Replies that grow at a time, unless told."""

PATIENCE = 2.5
"""How long prompts may be read in a step where replies are under way, in passes of theirs."""

LEAST_CHUNK = 8
"""Tokens that are read in such a step, at least; all are a multiple of it."""

SCORED_CHUNK = 64
"""Tokens of a chunk of a prompt whose every token has its logits computed, at most."""


class Scheduler:
    """Serves requests, in steps. One thread calls it."""

    def __init__(
        self,
        engine: Engine,
        pool: PagePool,
        *,
        most_rows: int = MOST_ROWS,
        keeps_prefixes: bool = True,
        is_batch: bool = False,
    ) -> None:
        """Nobody is served yet.

        Args:
            engine: the decoder.
            pool: where rows hold their keys and values.
            most_rows: replies that grow at a time; others wait.
            keeps_prefixes: whether what a reply has computed is kept for a later one that begins alike.
            is_batch: all requests are there from the start. Prompts are read first, and a row takes pages at once for
                all that it may become, so that they lie side by side.
        """
        self._engine, self.pool, self._ropes = engine, pool, engine.config.ropes
        self._tables_vary = depend_on_length(self._ropes)
        self._most_rows, self._keeps_prefixes = most_rows, keeps_prefixes
        self._is_batch = is_batch
        threads = engine.rt.backend.threads or count_cpus()
        self._executor = ThreadPoolExecutor(threads, "xplm-choice") if threads > 1 else None
        self.waiting: list[Request] = []  # in the order in which an owner's are admitted
        self.admitted: list[Request] = []  # in the order in which they were admitted
        self._turns: dict[str, int] = {}  # by owner: larger the later one of theirs was admitted
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
        self.require_fit(request)
        self.waiting.append(request)

    def require_fit(self, request: Request) -> None:
        """Refuse a request that the pool could not hold even by itself.

        Raises:
            RequestError: it and its reply have too many tokens.
        """
        n_tokens = len(request.reply.prompt_ids) + request.reply.max_tokens
        needed, limit = self.pool.count_bytes(n_tokens), self.pool.limit_bytes
        if limit is not None and needed > limit:
            raise RequestError(
                f"a prompt and its reply must fit the cache of {format_bytes(limit)}; {n_tokens} tokens take "
                f"{format_bytes(needed)}; ask for fewer new tokens, or give the cache more memory"
            )

    def cancel(self, request: Request) -> None:
        """Stop serving a request, at any time; what it holds is given back."""
        for requests in (self.waiting, self.admitted):
            if request in requests:
                requests.remove(request)
        self._give_back(request)

    def step(self) -> list[Event]:
        """Serve whoever can be served.

        Returns:
            What each pass gave; a request whose reply has a finish reason, or an error, is served no more. Where an
            allocation fails, it is the error of those that it was for.
        """
        events: list[Event] = []
        if self._tables_vary:
            for request in self.admitted:
                self._rotate_anew(request)
        self._admit(events)
        decoding = self._ready_to_decode(events)
        if decoding:
            events += self._pass(decoding, 1)

        bearable = self._bearable_tokens() if decoding else 0
        while (reading := self._next_to_read()) is not None:
            count = self._chunk(reading, bearable if decoding else self._engine.chunk_tokens)
            if not self._reserve(reading, count, events):
                break
            events += self._read_chunk(reading, count)
            bearable -= count
            if bearable < LEAST_CHUNK:
                break
            self._admit(events)
        return events

    def _next_to_read(self) -> Request | None:
        return next((r for r in self.admitted if r.n_unread > 1), None)

    def _bearable_tokens(self) -> int:
        """Tokens of prompts that those who decode bear to wait for."""
        if self._token_seconds == 0:
            return self._engine.chunk_tokens
        count = int(PATIENCE * self._decode_seconds / self._token_seconds)
        return max(LEAST_CHUNK, count // LEAST_CHUNK * LEAST_CHUNK)

    def _ready_to_decode(self, events: list[Event]) -> list[Request]:
        """Those with one token to read, and room for it."""
        for request in [r for r in self.admitted if r.n_unread == 1]:
            if request in self.admitted:  # it may have had to make room for another
                self._reserve(request, 1, events)
        return [r for r in self.admitted if r.n_unread == 1]

    def _admit(self, events: list[Event]) -> None:
        """Let those in who wait, for as long as there is room for what they are about to read."""
        while self.waiting and len(self.admitted) < self._most_rows:
            request = self._next_to_admit()
            if request.row is None:
                request.row = self._acquire(request)
            count = request.n_unread
            if self._is_batch:
                count += request.reply.max_tokens - len(request.reply.ids)
            try:
                has_room = request.row.reserve(count)
            except OutOfMemoryError as error:
                events.append(self._fail(request, error))
                continue
            if not has_room:
                assert self.admitted, (
                    "a request that fits the pool finds room there once it is alone"
                )
                self._give_back(request)
                return
            request.reach(request.row.length, is_reused=True)
            request.is_long = self._engine.has_long_factors(len(request.ids))
            self.waiting.remove(request)
            self._turns[request.owner] = max(self._turns.values(), default=0) + 1
            self.admitted.append(request)
            if request.n_unread > 1 and not self._is_batch:
                return  # one prompt at a time: who begins alike finds its pages later

    def _next_to_admit(self) -> Request:
        """The first of those whose owner has the fewest replies under way. Owners of equally many take turns."""
        n_admitted = Counter(request.owner for request in self.admitted)
        return min(self.waiting, key=lambda r: (n_admitted[r.owner], self._turns.get(r.owner, 0)))

    def _acquire(self, request: Request) -> PageRow:
        ids = request.ids[: request.scored_from] if request.is_scoring else request.ids
        row = self.pool.acquire(ids, self._parent(request))
        row.is_kept = self._keeps_prefixes
        return row

    def _parent(self, request: Request) -> bytes:
        """The key of what a row begins with: whose it is, and how its first token is rotated."""
        return first_key(request.owner, self._table(request, 0))

    def _rotate_anew(self, request: Request) -> None:
        """Begin again where a reply has grown past the trained length of longrope."""
        row, is_long = request.row, self._engine.has_long_factors(len(request.ids))
        if row is not None and is_long != request.is_long:
            request.is_long = is_long
            row.release()
            if request.is_row_lent:
                row.keys = [self._parent(request)]
            else:
                request.row = self._acquire(request)
                request.reach(request.row.length, is_reused=True)

    def _reserve(self, request: Request, count: int, events: list[Event]) -> bool:
        """Make room for more tokens of an admitted request; False if it had to give way, or to end, itself."""
        try:
            while request in self.admitted:
                if request.row is not None and request.row.reserve(count):
                    return True
                last = self.admitted.pop()
                self._give_back(last)
                self.waiting.insert(0, last)
                self.preemptions += 1
        except OutOfMemoryError as error:
            events.append(self._fail(request, error))
        return False

    def _read_chunk(self, request: Request, count: int) -> list[Event]:
        """Read a chunk of a prompt, and show how far it is if it has several."""
        assert request.row is not None
        begin, n_tokens = request.row.length, len(request.reply.prompt_ids)
        has_several = n_tokens > self._engine.chunk_tokens
        if has_several and request.computed_tokens == 0:
            self._engine.progress(READING, begin, n_tokens)
        events = self._pass([request], count)
        if has_several:
            self._engine.progress(READING, min(begin + count, n_tokens), n_tokens)
        return events

    def _chunk(self, request: Request, most: int) -> int:
        """How many tokens of a prompt to read: `most`, or less, such as one table rotates."""
        assert request.row is not None
        most = min(most, request.n_unread, self._engine.chunk_tokens)
        if request.is_scoring:
            ahead = request.scored_from - 1 - request.row.length
            most = min(most, SCORED_CHUNK * max(1, ahead // SCORED_CHUNK))
        begin, count = request.row.length, 1
        table = self._table(request, begin)
        while count < most and self._table(request, begin + count) == table:
            count += 1
        return count

    def _table(self, request: Request, slot: int) -> str:
        """A name for the frequencies that a token is rotated by."""
        return table_name(self._ropes, self._end(request, slot)) if self._tables_vary else ""

    def _end(self, request: Request, slot: int) -> int:
        """The length by which a token is rotated: the prompt's or, behind it, its own; all there is by long factors."""
        if self._tables_vary and self._engine.has_long_factors(len(request.ids)):
            return len(request.ids)
        return max(len(request.reply.prompt_ids), slot + 1)

    def _pass(self, requests: Sequence[Request], count: int) -> list[Event]:
        """Read the next `count` tokens of each, and choose the next of those that have read all."""
        started = perf_counter()
        rows = [r.row for r in requests if r.row is not None]
        ids = [
            r.ids[row.length : row.length + count] for r, row in zip(requests, rows, strict=True)
        ]
        ends = [self._end(r, row.length + count - 1) for r, row in zip(requests, rows, strict=True)]
        for request, row in zip(requests, rows, strict=True):
            if row.length < len(request.reply.prompt_ids):
                request.computed_tokens += count
            if self._table(request, row.length + count - 1) != self._table(request, 0):
                row.is_kept = False  # the beginning is rotated otherwise
        is_scoring = any(request.is_scored_by(count) for request in requests)
        try:
            logits = self._engine.read(self.pool, rows, ids, ends, last_only=not is_scoring)
        except OutOfMemoryError as failed:
            return [self._fail(request, failed) for request in requests]
        for request, row in zip(requests, rows, strict=True):
            request.reach(row.length, is_reused=False)
        are_first = [not request.reply.ids for request in requests]
        events = self._take(requests, logits)

        seconds = perf_counter() - started
        for request, is_first in zip(requests, are_first, strict=True):
            if is_first:
                request.prefill_seconds += seconds
            else:
                request.decode_seconds += seconds
        if count == 1:
            self._decode_seconds = seconds
        else:
            self._token_seconds = seconds / count
        return events

    def _take(self, requests: Sequence[Request], logits: np.ndarray) -> list[Event]:
        """Score prompts' tokens and choose the next tokens, as far as it is time.   logits (B, V) or (B, T, V)"""
        events: list[Event] = []
        if logits.ndim == 3:
            for request, scores in zip(requests, logits, strict=True):
                events += self._score(request, scores)
            logits = logits[:, -1]
        are_ready = [r in self.admitted and r.n_unread == 0 for r in requests]
        ready = list(compress(requests, are_ready))
        if ready:
            logits = logits if all(are_ready) else logits[are_ready]
            outcomes = advance([request.reply for request in ready], logits, self._executor)
            events += map(self._end_or_go_on, ready, outcomes)
        return events

    def _score(self, request: Request, logits: np.ndarray) -> list[Event]:
        """Take in logits (T, V) after a prompt's tokens, as far as those are asked for."""
        if request.prompt_scores is not None and request.row is not None:
            try:
                request.prompt_scores.push(request.row.length - len(logits), logits)
            except RequestError as refused:
                return [self._fail(request, refused)]
        return []

    def _end_or_go_on(self, request: Request, outcome: list[Part] | RequestError) -> Event:
        """Tell what came of a token; a reply that has ended, or cannot go on, leaves."""
        if isinstance(outcome, RequestError):
            return self._fail(request, outcome)
        if request.reply.finish_reason is not None:
            self.cancel(request)
        return Event(request, outcome)

    def _fail(self, request: Request, error: XplmError) -> Event:
        self.cancel(request)
        return Event(request, [], error)

    def _give_back(self, request: Request) -> None:
        if request.row is not None and not request.is_row_lent:
            request.row.release()
            request.row = None


def generate_steps(
    engine: Engine, requests: Sequence[Request], pool: PagePool | None = None
) -> Iterator[list[Event]]:
    """Grow replies together, one row each, until all have ended.

    A row that has ended leaves the batch. Because a token's choice depends on its own row alone, each reply is what it
    would be by itself, up to rounding.

    Args:
        engine: the decoder.
        requests: at least one.
        pool: that holds the rows which they bring; None: one of their own.

    Yields:
        What each step gave.

    Raises:
        RequestError: the logits of a reply are not finite.
    """
    pool = PagePool(engine.rt, engine.config) if pool is None else pool
    options = {"keeps_prefixes": False, "is_batch": True}
    scheduler = Scheduler(engine, pool, most_rows=len(requests), **options)
    compiled = engine.rt.backend.compiler.compilations
    compiled_before = compiled()
    for request in requests:
        scheduler.submit(request)
    try:
        while not scheduler.is_idle:
            events = scheduler.step()
            for event in events:
                if event.error is not None:
                    raise event.error
            yield events
        n_compiled = compiled() - compiled_before
        for request in requests:
            request.compilations = n_compiled
    finally:
        for request in requests:
            scheduler.cancel(request)
