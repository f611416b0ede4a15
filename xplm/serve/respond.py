"""Replies as a response: a stream of events, or the whole at once. Whoever leaves has its replies cancelled."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from xplm.errors import XplmError
from xplm.generate.result import Generation
from xplm.serve.errors import CLIENT_LEFT, as_api_error, error_body, json_response
from xplm.serve.worker import Delta, Replies

T = TypeVar("T")

DONE = b"data: [DONE]\n\n"


class Form(Protocol):
    """How replies are written."""

    def first(self) -> list[dict[str, Any]]:
        """The chunks that open a stream."""

    def chunks(self, delta: Delta) -> list[dict[str, Any]]:
        """The chunks of what a step gave to a reply."""

    def last(
        self, generations: Sequence[Generation], added: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """The chunks that close a stream, with what else there is to say."""

    def whole(self, generations: Sequence[Generation]) -> dict[str, Any]:
        """The response that is no stream."""


async def _nothing_to_add(generations: Sequence[Generation]) -> dict[str, Any]:
    return {}


def _nothing_to_close() -> None:
    pass


class Hooks(NamedTuple):
    """What else a response does."""

    finish: Callable[[Sequence[Generation]], Awaitable[dict[str, Any]]] = _nothing_to_add
    """With the whole of the replies, before the response ends; what it returns is in the response, too."""
    close: Callable[[], None] = _nothing_to_close
    """At the end, whatever that was."""


async def respond(
    request: Request,
    replies: Replies,
    form: Form,
    *,
    is_stream: bool,
    send_seconds: float,
    hooks: Hooks = Hooks(),  # noqa: B008, a value
) -> Response:
    """The response that holds replies.

    Args:
        request: the client's.
        replies: under way.
        form: how they are written.
        is_stream: whether they are sent as they come.
        send_seconds: for the client to take what is sent.
        hooks: what else is done.

    Raises:
        XplmError: a reply that is no stream ended with it.
    """
    if is_stream:
        return EventStream(replies, form, send_seconds, hooks)
    try:
        generations = await unless_left(request, _collect(replies))
        if generations is None:
            return Response(status_code=CLIENT_LEFT)
        return json_response(form.whole(generations) | await hooks.finish(generations))
    finally:
        replies.close()
        hooks.close()


class EventStream(StreamingResponse):
    """Server-sent events. Replies that have not ended when the response does are cancelled."""

    def __init__(self, replies: Replies, form: Form, send_seconds: float, hooks: Hooks) -> None:
        """Nothing is sent yet.

        Args:
            replies: under way.
            form: how they are written.
            send_seconds: for the client to take what is sent.
            hooks: what else is done.
        """
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        events = _events(replies, form, hooks)
        super().__init__(events, headers=headers, media_type="text/event-stream")
        self._replies, self._send_seconds, self._hooks = replies, send_seconds, hooks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; a client that takes none for too long is left."""
        try:
            await super().__call__(scope, receive, partial(self._send_in_time, send))
        except TimeoutError:  # the server closes a connection whose response has no end
            pass
        finally:
            self._replies.close()
            self._hooks.close()

    async def _send_in_time(self, send: Send, message: Message) -> None:
        now = asyncio.get_running_loop().time()
        async with asyncio.timeout_at(min(now, self._replies.deadline) + self._send_seconds):
            await send(message)


async def _events(replies: Replies, form: Form, hooks: Hooks) -> AsyncIterator[bytes]:
    for chunk in form.first():
        yield _event(chunk)
    ends: list[Generation | None] = [None] * len(replies.requests)
    try:
        async for delta in replies:
            if isinstance(delta.end, XplmError):
                raise delta.end
            ends[delta.choice] = delta.end
            for chunk in form.chunks(delta):
                yield _event(chunk)
        generations = [end for end in ends if end is not None]
        added = await hooks.finish(generations)
        for chunk in form.last(generations, added):
            yield _event(chunk)
    except XplmError as error:
        yield _event(error_body(as_api_error(error)))
    yield DONE


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


async def _collect(replies: Replies) -> list[Generation]:
    """The whole of each.

    Raises:
        XplmError: one ended with it.
    """
    ends: dict[int, Generation] = {}
    async for delta in replies:
        if isinstance(delta.end, XplmError):
            raise delta.end
        if delta.end is not None:
            ends[delta.choice] = delta.end
    return [ends[index] for index in sorted(ends)]


async def unless_left(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """What work gives, or None if the client left before; the work is then cancelled."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_until_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _until_left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
