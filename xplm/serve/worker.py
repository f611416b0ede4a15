"""The thread that computes: it owns the scheduler, and hands what each step gives to the event loop.

Whoever asks for replies gets them through a queue that the thread never waits for: what a slow reader has not taken
stays there, at most as many entries as its replies may have tokens. Work that is no reply, such as an embedding, is a
generator, of which the thread computes one part between two steps.
"""

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import chain
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

from xplm.errors import OutOfMemoryError, XplmError
from xplm.generate.request import Event, Request
from xplm.generate.result import Generation
from xplm.generate.sampling import Ranked
from xplm.generate.scheduler import Scheduler
from xplm.serve.errors import ApiError, GrammarError, ModelError
from xplm.serve.metrics import Metrics
from xplm.text.reply_parts import Part

T = TypeVar("T")
Work = Generator[None, None, T]
"""Work in parts."""

_LOG = logging.getLogger("xplm.serve")


class Delta(NamedTuple):
    """What a step gave to one of several replies."""

    choice: int  # which reply
    parts: list[Part]  # that can be shown now
    ids: list[int]  # chosen since the last
    logprobs: list[float]  # of these
    top: list[Ranked]  # of each of these the likeliest in its place, or empty
    end: Generation | XplmError | None  # the whole, once it is there, or why there is none


class _Job(NamedTuple):
    work: Work[Any]
    future: "asyncio.Future[Any]"


class Replies:
    """Replies that are under way, as the event loop sees them: iterate over their deltas, and close at the end."""

    def __init__(self, worker: "Worker", requests: Sequence[Request], deadline: float) -> None:
        """Nothing has come yet; `Worker.submit` makes one."""
        self.requests = requests
        self.deadline = deadline
        self._worker = worker
        self._queue: asyncio.Queue[Delta] = asyncio.Queue()
        self.n_left = len(requests)
        self._is_closed = False

    def put(self, delta: Delta) -> None:
        """Take in what a step gave."""
        self._queue.put_nowait(delta)

    def __aiter__(self) -> "Replies":
        """Itself."""
        return self

    async def __anext__(self) -> Delta:
        """The next delta of any reply.

        Raises:
            ApiError: the time for the replies is over.
        """
        if self.n_left == 0:
            raise StopAsyncIteration
        try:
            async with asyncio.timeout_at(self.deadline):
                delta = await self._queue.get()
        except TimeoutError:
            raise ApiError(
                "a reply took longer than this server allows; ask for fewer tokens",
                status=503,
                kind="server_error",
                code="timeout",
            ) from None
        if delta.end is not None:
            self.n_left -= 1
        return delta

    def close(self) -> None:
        """Stop those that have not ended. Whoever submitted replies calls this once their reader has all, or has left;
        until then they count as open, so that readers who are slow cannot pile them up.
        """
        if not self._is_closed:
            self._is_closed = True
            self._worker.release(self.requests, has_ended=self.n_left == 0)
            self.n_left = 0


class _Target:
    """Where the deltas of a request go, and how much of its reply has gone there."""

    def __init__(self, replies: Replies, index: int) -> None:
        self.replies, self.index = replies, index
        self.n_ids = 0
        self.asked = perf_counter()

    def delta(self, event: Event) -> Delta:
        reply, begin = event.request.reply, self.n_ids
        self.n_ids = len(reply.ids)
        end: Generation | XplmError | None = None
        if event.error is not None:
            end = _as_failure(event.error)
        elif reply.finish_reason is not None:
            end = event.request.result()
        top = reply.top_logprobs[begin:] if reply.options.top_logprobs else []
        return Delta(self.index, event.parts, reply.ids[begin:], reply.logprobs[begin:], top, end)


class Worker:
    """Owns the thread. Every method but `_run` and what it calls is the event loop's."""

    def __init__(
        self, scheduler: Scheduler, metrics: Metrics, *, most_open: int, reply_seconds: float
    ) -> None:
        """Nothing runs yet.

        Args:
            scheduler: what the thread steps.
            metrics: is given what each step did.
            most_open: replies of one owner that are under way or wait, at most.
            reply_seconds: for a reply, from the request to its last token.
        """
        self.scheduler = scheduler
        self._metrics, self._most_open, self._reply_seconds = metrics, most_open, reply_seconds
        self._targets: dict[Request, _Target] = {}  # the thread's
        self._jobs: dict[
            str, list[_Job]
        ] = {}  # the thread's: of each owner; the first one's turn comes next
        self._condition = threading.Condition()
        self._commands: list[Callable[[], None]] = []  # what the event loop asks of the thread
        self._is_closing = False
        self._running: asyncio.Future[None] | None = None  # done when the thread has ended
        self._loop: asyncio.AbstractEventLoop | None = None
        self._n_open: Counter[str] = Counter()  # the event loop's: replies and jobs of each owner

    @property
    def is_alive(self) -> bool:
        """Whether requests can be served."""
        return self._running is not None and not self._is_closing

    @property
    def failure(self) -> BaseException | None:
        """The exception that ended the thread, a bug; None where none did."""
        return self._running.exception() if self._running and self._running.done() else None

    def start(self) -> None:
        """Start the thread, from the event loop that it hands replies to."""
        self._loop = asyncio.get_running_loop()
        thread = ThreadPoolExecutor(1, "xplm-worker")
        self._running = self._loop.run_in_executor(thread, self._run)
        self._running.add_done_callback(self._log_failure)
        thread.shutdown(wait=False)  # it takes no more work, and ends with this

    async def close(self) -> None:
        """End what is under way, and the thread."""
        with self._condition:
            self._is_closing = True
            self._condition.notify()
        if self._running is not None:
            await asyncio.wait([self._running])

    def _log_failure(self, running: "asyncio.Future[None]") -> None:
        if error := running.exception():
            _LOG.critical("the server has stopped computing, by a bug", exc_info=error)

    def submit(self, requests: Sequence[Request]) -> Replies:
        """Have requests served.

        Args:
            requests: of one owner, at least one.

        Raises:
            ApiError: too many wait, or the server is about to end.
            RequestError: one could not be served even alone.
        """
        for request in requests:
            self.scheduler.require_fit(request)
        owner = requests[0].owner
        self._require_room(owner, len(requests))
        assert self._loop is not None
        replies = Replies(self, requests, self._loop.time() + self._reply_seconds)
        self._ask(partial(self._take, requests, replies))
        self._n_open[owner] += len(requests)
        return replies

    def release(self, requests: Sequence[Request], *, has_ended: bool) -> None:
        """Make room for others in the place of requests, which are served no more unless all of them have ended."""
        self._n_open[requests[0].owner] -= len(requests)
        if not has_ended:
            with suppress(ApiError):  # a thread that has ended serves nobody
                self._ask(partial(self._drop, requests))

    async def compute(self, work: Work[T], owner: str) -> T:
        """Have work done between the steps; returns what it returns.

        Args:
            work: in parts.
            owner: whose it is; owners' parts come in turns.

        Raises:
            XplmError: the work did.
            ApiError: too many wait, or the server is about to end.
        """
        self._require_room(owner, 1)
        assert self._loop is not None
        future: asyncio.Future[T] = self._loop.create_future()
        self._ask(partial(self._take_job, owner, _Job(work, future)))
        self._n_open[owner] += 1
        try:
            return await future
        finally:
            self._n_open[owner] -= 1

    def _require_room(self, owner: str, count: int) -> None:
        n_open = self._n_open[owner]
        if n_open + count > self._most_open:
            raise ApiError(
                f"this server serves and queues {self._most_open} replies at a time for a key; {n_open} are there "
                f"and {count} more were asked for; try again later",
                status=429,
                kind="rate_limit_error",
                code="queue_full",
                headers={"retry-after": "1"},
            )

    def _ask(self, command: Callable[[], None]) -> None:
        """Have the thread do something.

        Raises:
            ApiError: it does nothing any more.
        """
        with self._condition:
            if not self.is_alive:
                raise _stopped()
            self._commands.append(command)
            self._condition.notify()

    # From here on, in the thread.

    def _run(self) -> None:
        try:
            while not self._is_closing:
                for command in self._wait():
                    command()
                if not self.scheduler.is_idle:
                    begun = perf_counter()
                    events = self.scheduler.step()
                    self._metrics.count_step(perf_counter() - begun)
                    self._deliver(events)
                if self._jobs:
                    self._advance()
        finally:  # whoever waits is told, whatever ended the loop
            self._is_closing = True
            for command in self._wait():
                command()
            self._deliver([Event(request, [], _stopped()) for request in self._targets])
            for job in chain(*self._jobs.values()):
                self._settle(job.future, _stopped())

    def _wait(self) -> list[Callable[[], None]]:
        """What the event loop has asked for, once there is something to do."""
        with self._condition:
            while not (self._commands or self._jobs or self._is_closing) and self.scheduler.is_idle:
                self._condition.wait()
            commands, self._commands = self._commands, []
        return commands

    def _take(self, requests: Sequence[Request], replies: Replies) -> None:
        for index, request in enumerate(requests):
            self._targets[request] = _Target(replies, index)
            self.scheduler.submit(request)

    def _take_job(self, owner: str, job: _Job) -> None:
        self._jobs.setdefault(owner, []).append(job)

    def _drop(self, requests: Sequence[Request]) -> None:
        for request in requests:
            if self._targets.pop(request, None) is not None:
                self.scheduler.cancel(request)
                self._metrics.cancelled.inc()

    def _deliver(self, events: Sequence[Event]) -> None:
        for event in events:
            self._metrics.count_event(event, perf_counter() - self._targets[event.request].asked)
        batch = [(self._targets[e.request], self._targets[e.request].delta(e)) for e in events]
        for event, (_, delta) in zip(events, batch, strict=True):
            if delta.end is not None:
                del self._targets[event.request]
        if batch:
            self._call(partial(self._hand_out, batch))

    def _advance(self) -> None:
        """Compute one part of the first job of the owner whose turn it is."""
        owner = next(iter(self._jobs))
        jobs = self._jobs.pop(owner)
        if self._compute_part(jobs[0]):
            del jobs[0]
        if jobs:
            self._jobs[owner] = jobs

    def _compute_part(self, job: _Job) -> bool:
        """Compute one part of a job; whether that was the last."""
        if job.future.cancelled():
            job.work.close()
            return True
        try:
            next(job.work)
        except StopIteration as end:
            self._settle(job.future, end.value)
        except XplmError as error:
            self._settle(job.future, error)
        else:
            return False
        return True

    def _settle(self, future: "asyncio.Future[Any]", outcome: Any) -> None:
        def settle() -> None:
            if future.done():
                return
            if isinstance(outcome, XplmError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        self._call(settle)

    def _call(self, function: Callable[[], None]) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(function)

    # In the event loop again.

    def _hand_out(self, batch: Sequence[tuple[_Target, Delta]]) -> None:
        for target, delta in batch:
            target.replies.put(delta)


def _stopped() -> ApiError:
    return ApiError(
        "the server has stopped computing", status=503, kind="server_error", code="unavailable"
    )


def _as_failure(error: XplmError) -> XplmError:
    """An error that a request met after it had been admitted: the model's, unless it is known to be another's."""
    is_known = isinstance(error, ApiError | GrammarError | OutOfMemoryError)
    return error if is_known else ModelError(str(error))
