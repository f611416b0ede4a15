"""A model of this process as the subject of an evaluation: a client of the scheduler, as a server is.

Answers grow many at a time. Prompts are scored one after another, in one row, which keeps the tokens that the next one
begins with too: the choices of a question, and questions behind the same examples. With order-invariant kernels neither
changes a bit.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from time import perf_counter
from typing import Any, TypeVar

from xplm.evaluate.subject import (
    ANSWERING,
    SCORING,
    Conversation,
    Likelihood,
    Question,
    Scored,
    Tally,
    Text,
    make_likelihood,
    prefix_token,
)
from xplm.generate.chat_format import ChatFormat
from xplm.generate.options import SamplingOptions
from xplm.generate.reply import Reply, start_reply
from xplm.generate.request import Request
from xplm.generate.scheduler import MOST_ROWS, Scheduler
from xplm.language_model import LanguageModel
from xplm.page_pool import PagePool, PageRow
from xplm.pages import first_key
from xplm.progress import OnProgress, unseen
from xplm.rope_scaling import depend_on_length

T = TypeVar("T")

ONE_TOKEN = SamplingOptions(max_new_tokens=1, top_logprobs=1)
"""Of a request whose prompt is scored: a reply has a token at least."""

QUEUED = 2
"""Requests that are made at a time, in rows that grow at a time."""


class LocalModel:
    """A model of this process."""

    def __init__(
        self,
        lm: LanguageModel,
        name: str,
        *,
        cache_bytes: int | None = None,
        most_rows: int = MOST_ROWS,
        progress: OnProgress = unseen,
    ) -> None:
        """Ask a model.

        Args:
            lm: the model.
            name: to show.
            cache_bytes: for keys and values; None: no limit but the device's memory.
            most_rows: requests that are computed at a time.
            progress: is given the requests done.
        """
        self.name, self.tally = name, Tally()
        self._lm, self._progress, self._most_open = lm, progress, QUEUED * most_rows
        self._pool = PagePool(lm.rt, lm.config, cache_bytes)
        self._scheduler = Scheduler(lm.engine, self._pool, most_rows=most_rows)
        self._tables_vary = depend_on_length(lm.config.ropes)

    @property
    def context(self) -> int:
        """The most tokens of a sequence."""
        return self._lm.engine.context

    @property
    def facts(self) -> dict[str, Any]:
        """How it computes."""
        rt = self._lm.rt
        return {
            "policy": str(rt.policy),
            "backend": rt.backend.name,
            "is_invariant": rt.is_invariant,
            "stored_as": self._lm.stored_as,
        }

    @property
    def prefix_id(self) -> int:
        """BOS, or else EOS.

        Raises:
            RequestError: the tokenizer has neither.
        """
        token = prefix_token(self._lm.tokenizer.special_tokens, "this one")
        return self._lm.tokenizer.encode(token, add_special_tokens=False)[0]

    @cached_property
    def _format(self) -> ChatFormat:
        return ChatFormat(self._lm.tokenizer, self._lm.engine.context)

    def encode(self, texts: Sequence[Text], *, add_special_tokens: bool = True) -> list[list[int]]:
        """Token ids; of a conversation, those that it is answered from.

        Raises:
            TemplateError: the model has no chat template, or it refuses a conversation.
        """
        return [self._encode(text, add_special_tokens) for text in texts]

    def _encode(self, text: Text, add_special_tokens: bool) -> list[int]:
        if isinstance(text, Conversation):
            return self._format.encode(text.messages)
        encode = self._lm.tokenizer.encode_long
        return [int(token) for token in encode(text, add_special_tokens=add_special_tokens)]

    def score(self, asked: Sequence[Scored]) -> list[Likelihood]:
        """The likelihood of tokens, given those before them.

        Raises:
            RequestError: the model's logits are not finite.
        """
        row = self._pool.acquire([], first_key())
        try:
            requests = (self._scoring(*scored, row) for scored in asked)
            return self._serve(SCORING, requests, len(asked), 1, _likelihood)
        finally:
            row.release()

    def _scoring(self, ids: list[int], begin: int, row: PageRow) -> Request:
        """A request for a likelihood, in a row that keeps what it holds of the tokens before those to score."""
        kept = 0 if self._tables_vary else _count_common(row.ids, ids[: begin - 1])
        if not row.rollback(kept):
            row.release()
        return Request(self._start(ids, ONE_TOKEN), row=row, scored_from=begin)

    def answer(self, asked: Sequence[Question]) -> list[str]:
        """The answers to prompts.

        Raises:
            RequestError: a conversation does not fit the context, or the model's logits are not finite.
        """
        stop = self._lm.sampling.options.get("stop", ())
        own = (stop,) if isinstance(stop, str) else tuple(stop)
        requests = (
            Request(self._start(prompt, replace(options, stop=(*own, *options.stop))))
            for prompt, options in asked
        )
        return self._serve(
            ANSWERING, requests, len(asked), self._most_open, lambda request: request.reply.text
        )

    def _start(self, prompt: list[int] | Conversation, options: SamplingOptions) -> Reply:
        lm, has_room = self._lm, self._pool.has_pages
        if not isinstance(prompt, Conversation):
            return start_reply(
                lm.engine,
                lm.tokenizer,
                prompt,
                options,
                continues_prompt=True,
                has_room=has_room,
            )
        return start_reply(
            lm.engine,
            lm.tokenizer,
            self._format.encode(prompt.messages),
            options,
            continues_prompt=False,
            turn_end_ids=self._format.turn_end_ids(self._format.reply_format),
            reply_format=self._format.reply_format,
            has_room=has_room,
        )

    def _serve(
        self,
        what: str,
        requests: Iterable[Request],
        count: int,
        most_open: int,
        read: Callable[[Request], T],
    ) -> list[T]:
        """What is read of each request once it is served, in their order; so many are made ahead."""
        found: dict[int, T] = {}
        places: dict[Request, int] = {}  # of those that are under way
        coming = enumerate(requests)
        begun = perf_counter()
        self._progress(what, 0, count)
        try:
            while len(found) < count:
                while len(places) < most_open and (arrived := next(coming, None)):
                    places[arrived[1]] = arrived[0]
                    self._scheduler.submit(arrived[1])
                for event in self._scheduler.step():
                    if event.error is not None:
                        raise event.error
                    if event.request.reply.finish_reason is not None:
                        found[places.pop(event.request)] = read(event.request)
                        self._count(event.request)
                self._progress(what, len(found), count)
        finally:
            for request in places:
                self._scheduler.cancel(request)
            self.tally.seconds += perf_counter() - begun
        return [found[place] for place in range(count)]

    def _count(self, request: Request) -> None:
        self.tally.prompt_tokens += len(request.reply.prompt_ids)
        self.tally.reused_tokens += request.reused_tokens
        if request.prompt_scores is None:
            self.tally.new_tokens += len(request.reply.ids)


def _likelihood(request: Request) -> Likelihood:
    """Of the tokens of a prompt that were scored."""
    scores = request.prompt_scores
    assert scores is not None
    return make_likelihood(scores.logprobs, [top[0][1] for top in scores.top])


def _count_common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading items are equal."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((n for n, (x, y) in pairs if x != y), min(len(a), len(b)))
