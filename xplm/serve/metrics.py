"""What the server counts, in a registry of its own, as Prometheus reads it."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from xplm.generate.request import Event
from xplm.generate.scheduler import Scheduler

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Counters of one server. Any thread may count."""

    def __init__(self, scheduler: Scheduler) -> None:
        """All is zero.

        Args:
            scheduler: whose state gauges show.
        """
        self.registry = CollectorRegistry()
        pool = scheduler.pool
        self._gauge("requests_running", "Replies that grow.", lambda: len(scheduler.admitted))
        self._gauge("requests_waiting", "Replies that wait.", lambda: len(scheduler.waiting))
        self._gauge("cache_bytes", "Bytes of all pages of keys and values.", lambda: pool.n_bytes)
        self._gauge(
            "cache_held_bytes", "Bytes of pages that replies hold.", lambda: pool.held_bytes
        )
        self._gauge("preemptions", "Times a reply gave way.", lambda: scheduler.preemptions)
        self.responses = Counter(
            "xplm_responses", "Responses.", ["endpoint", "status"], registry=self.registry
        )
        self.cancelled = self._counter("replies_cancelled", "Replies that were given up.")
        self._prompt = self._counter("prompt_tokens", "Prompt tokens of finished replies.")
        self._reused = self._counter("reused_tokens", "Of these, those whose keys were there.")
        self._generated = self._counter("generated_tokens", "Tokens chosen.")
        self._failed = self._counter("replies_failed", "Replies that ended with an error.")
        self._step = self._histogram("step_seconds", "Time of a step.")
        self._first = self._histogram(
            "first_token_seconds", "Time from a request to its first token."
        )
        self._whole = self._histogram("reply_seconds", "Time from a request to its last token.")

    def count_step(self, seconds: float) -> None:
        """Count a step of the scheduler."""
        self._step.observe(seconds)

    def count_event(self, event: Event, seconds: float) -> None:
        """Count what a step gave to a request, so long after it was asked for."""
        request = event.request
        if event.error is not None:
            self._failed.inc()
            return
        self._generated.inc()
        if len(request.reply.ids) == 1:
            self._first.observe(seconds)
        if request.reply.finish_reason is not None:
            self._prompt.inc(len(request.reply.prompt_ids))
            self._reused.inc(request.reused_tokens)
            self._whole.observe(seconds)

    def as_text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self.registry)

    def _gauge(self, name: str, what: str, read: Callable[[], float]) -> None:
        gauge = Gauge(f"xplm_{name}", what, registry=self.registry)
        gauge.set_function(read)

    def _counter(self, name: str, what: str) -> Counter:
        return Counter(f"xplm_{name}", what, registry=self.registry)

    def _histogram(self, name: str, what: str) -> Histogram:
        return Histogram(f"xplm_{name}", what, buckets=SECONDS, registry=self.registry)
