"""The model that is served, and what endpoints need beside it."""

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest

import xplm as library
from xplm.errors import TemplateError
from xplm.generate.chat_format import ChatFormat
from xplm.generate.reply import Reply
from xplm.generate.request import Request
from xplm.generate.scheduler import Scheduler
from xplm.language_model import LanguageModel
from xplm.page_pool import PagePool
from xplm.serve.body import parse_body, read_body
from xplm.serve.errors import ApiError
from xplm.serve.grammar import Grammars
from xplm.serve.logprobs import TokenTexts
from xplm.serve.metrics import Metrics
from xplm.serve.settings import Settings
from xplm.serve.store import Store
from xplm.serve.worker import Worker
from xplm.text.call_formats import CallFormat, find_call_format
from xplm.text.thoughts import find_format
from xplm.views import PAGE

T = TypeVar("T", bound=msgspec.Struct)
U = TypeVar("U")


@dataclass(frozen=True)
class Serving:
    """One model on one server."""

    lm: LanguageModel
    settings: Settings
    worker: Worker
    metrics: Metrics
    texts: TokenTexts
    format: ChatFormat | None  # None: it cannot chat
    call_format: CallFormat | None  # of calls of tools; None: none that is known
    grammars: Grammars
    fingerprint: str
    """Of what a reply's text depends on beside the request."""
    store: Store | None
    """Of conversations; None: it keeps none."""
    compiling: defaultdict[str, asyncio.Lock] = field(
        default_factory=lambda: defaultdict(asyncio.Lock)
    )
    """By owner: held while a grammar of theirs is compiled, one at a time, so that threads are left for others."""

    async def prepare(self, owner: str, work: Callable[[], U], *, has_grammar: bool) -> U:
        """The result of work done outside the event loop. Work that compiles a grammar waits for its owner's other."""
        if not has_grammar:
            return await run_in_threadpool(work)
        async with self.compiling[owner]:
            return await run_in_threadpool(work)

    def require_model(self, name: str | None) -> None:
        """Refuse a request for another model.

        Raises:
            ApiError: the name is another's.
        """
        if name not in (None, "", self.settings.model) and not self.settings.takes_any_model:
            raise ApiError(
                f"this server has the model {self.settings.model}; got {name}",
                status=404,
                kind="not_found_error",
                param="model",
                code="model_not_found",
            )

    def require_chat(self) -> ChatFormat:
        """The chat format.

        Raises:
            ApiError: the model has none.
        """
        if self.format is None:
            raise ApiError(
                "a chat needs a chat template, and this model has none that is valid; use /v1/completions"
            )
        return self.format

    def require_count(self, n_replies: int) -> int:
        """The number; refuse more replies than can ever be served at a time, before any is started.

        Raises:
            ApiError: there are more.
        """
        most = self.settings.most_rows + self.settings.most_waiting
        if n_replies > most:
            raise ApiError(f"a request may ask for {most} replies; got {n_replies}; ask for fewer")
        return n_replies

    def room(self, n_prompt_tokens: int) -> int:
        """Tokens that a reply to a prompt may have, at least 1; whether the prompt fits is for others to say."""
        most = self.lm.engine.context
        n_pages = self.worker.scheduler.pool.most_pages
        if n_pages is not None:
            most = min(most, n_pages * PAGE)
        return max(1, most - n_prompt_tokens)


def make_serving(lm: LanguageModel, settings: Settings) -> Serving:
    """A model ready to be served; its worker is not started.

    Raises:
        RequestError: conversations cannot be kept where the settings say.
    """
    pool = PagePool(lm.rt, lm.config, settings.cache_bytes)
    scheduler = Scheduler(lm.engine, pool, most_rows=settings.most_rows)
    metrics = Metrics(scheduler)
    worker = Worker(
        scheduler,
        metrics,
        most_open=settings.most_rows + settings.most_waiting,
        reply_seconds=settings.reply_seconds,
    )
    try:
        chat_format = ChatFormat(lm.tokenizer, lm.engine.context)
    except TemplateError:
        chat_format = None
    store = _open_store(settings)
    fingerprint = _fingerprint(lm, settings)
    return Serving(
        lm,
        settings,
        worker,
        metrics,
        TokenTexts(lm.tokenizer),
        chat_format,
        find_call_format(lm.tokenizer),
        _grammars(lm, chat_format),
        fingerprint,
        store,
    )


def serving_of(request: HttpRequest) -> Serving:
    """What an endpoint serves."""
    found = request.app.state.serving
    assert isinstance(found, Serving)
    return found


async def read_request(
    request: HttpRequest, kind: type[T], unsupported: Mapping[str, object]
) -> tuple[T, list[str]]:
    """The body of a request as a struct, and warnings about it.

    Raises:
        ApiError: it is malformed, too large or too slow, or asks for what is not supported.
    """
    settings = serving_of(request).settings
    body = await read_body(request, settings.body_bytes, settings.body_seconds)
    return parse_body(body, kind, unsupported)


def as_request(request: HttpRequest, reply: Reply, *, scores_prompt: bool = False) -> Request:
    """A reply as the scheduler serves it, for the owner of an HTTP request."""
    return Request(reply, request.scope["owner"], scored_from=1 if scores_prompt else None)


def _open_store(settings: Settings) -> Store | None:
    if settings.sessions is None:
        return None
    limits = {"owner_bytes": settings.owner_sessions_bytes, "all_bytes": settings.sessions_bytes}
    return Store(settings.sessions, **limits)


def _grammars(lm: LanguageModel, chat_format: ChatFormat | None) -> Grammars:
    """Grammars over the model's tokens, which are read when the first is asked for."""
    reply_format = find_format(lm.tokenizer)
    ends = [*lm.config.eos_token_id, *lm.tokenizer.eos_token_ids]
    if chat_format is not None:
        ends += chat_format.turn_end_ids(reply_format)
    return Grammars(lm.tokenizer, reply_format, ends)


def _fingerprint(lm: LanguageModel, settings: Settings) -> str:
    """A digest of the model's name and shape, its policy, and the versions that compute."""
    parts = (library.__version__, settings.model, repr(lm), lm.stored_as, repr(lm.config))
    digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=8)
    return f"blake2b-{digest.hexdigest()}"
