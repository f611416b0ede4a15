"""The application: which path leads to which endpoint."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xplm.language_model import LanguageModel
from xplm.serve.body import Bodies
from xplm.serve.chat import chat_completions
from xplm.serve.completions import completions
from xplm.serve.embeddings import embeddings
from xplm.serve.errors import HANDLERS, ApiError
from xplm.serve.guard import Guard
from xplm.serve.health import health, metrics
from xplm.serve.metrics import Metrics
from xplm.serve.models import get_model, list_models
from xplm.serve.serving import make_serving
from xplm.serve.sessions import (
    append_turn,
    change_session,
    delete_session,
    edit_turn,
    fork_session,
    get_session,
    list_sessions,
    measure_turn,
    rollback_session,
    send_message,
    start_session,
)
from xplm.serve.settings import Settings
from xplm.serve.static import page_routes
from xplm.serve.tokens import detokenize, tokenize, tokenizer_info
from xplm.text import renderer

Endpoint = Callable[[HttpRequest], Awaitable[Response]]

EVERY_METHOD = ["GET", "POST", "PUT", "PATCH", "DELETE"]

LACKING = (
    "/v1/responses",
    "/v1/images/{rest:path}",
    "/v1/audio/{rest:path}",
    "/v1/files",
    "/v1/batches",
    "/v1/moderations",
    "/v1/fine_tuning/{rest:path}",
)
"""Paths of OpenAI's interface that are not served."""


def make_app(lm: LanguageModel, settings: Settings) -> Starlette:
    """An application that serves a model.

    Args:
        lm: the model.
        settings: how to serve it.
    """
    serving = make_serving(lm, settings)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        if serving.format is not None:
            renderer.start()
        serving.worker.start()
        try:
            yield
        finally:
            await serving.worker.close()
            if serving.store is not None:
                serving.store.close()

    routes = [
        *_with_and_without_v1("/chat/completions", chat_completions, "POST"),
        *_with_and_without_v1("/completions", completions, "POST"),
        *_with_and_without_v1("/embeddings", embeddings, "POST"),
        *_with_and_without_v1("/models", list_models, "GET"),
        *_with_and_without_v1("/health", health, "GET"),
        Route("/v1/models/{name:path}", get_model),
        Route("/v1/sessions", list_sessions),
        Route("/v1/sessions", start_session, methods=["POST"]),
        Route("/v1/sessions/{name}", get_session),
        Route("/v1/sessions/{name}", change_session, methods=["PATCH"]),
        Route("/v1/sessions/{name}", delete_session, methods=["DELETE"]),
        Route("/v1/sessions/{name}/send", send_message, methods=["POST"]),
        Route("/v1/sessions/{name}/append", append_turn, methods=["POST"]),
        Route("/v1/sessions/{name}/rollback", rollback_session, methods=["POST"]),
        Route("/v1/sessions/{name}/fork", fork_session, methods=["POST"]),
        Route("/v1/sessions/{name}/edit", edit_turn, methods=["POST"]),
        Route("/v1/sessions/{name}/fragility", measure_turn, methods=["POST"]),
        Route("/tokenize", tokenize, methods=["POST"]),
        Route("/detokenize", detokenize, methods=["POST"]),
        Route("/tokenizer_info", tokenizer_info),
        Route("/metrics", metrics),
        *page_routes(),
        *(Route(path, lacking, methods=EVERY_METHOD) for path in LACKING),
    ]
    middleware = [
        Middleware(Guard, settings=settings),
        Middleware(Count, metrics=serving.metrics),
        Middleware(Bodies, limit=settings.bodies_bytes),
    ]
    app = Starlette(
        routes=routes, middleware=middleware, exception_handlers=HANDLERS, lifespan=lifespan
    )
    app.state.serving = serving
    return app


def _with_and_without_v1(path: str, endpoint: Endpoint, method: str) -> list[Route]:
    """Routes of a path that clients of llama.cpp may spell without "/v1"."""
    return [Route(prefix + path, endpoint, methods=[method]) for prefix in ("/v1", "")]


async def lacking(request: HttpRequest) -> Response:
    """The answer of a path that is not served."""
    raise ApiError(
        f"{request.scope['path']} is not supported; this server has /v1/chat/completions, /v1/completions and "
        "/v1/embeddings",
        status=501,
        kind="not_supported_error",
        code="not_supported",
    )


class Count:
    """Counts responses by endpoint and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        """Count those of an application."""
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one connection on."""

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                endpoint = scope.get("endpoint")  # None of a path that is not there
                name = "none" if endpoint is None else endpoint.__name__
                self._metrics.responses.labels(name, message["status"]).inc()
            await send(message)

        await self._app(scope, receive, send_counted)
