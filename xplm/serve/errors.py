"""Errors as OpenAI's clients read them: {"error": {"message", "type", "param", "code"}}, with an HTTP status."""

from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from xplm.errors import (
    ContextError,
    OutOfMemoryError,
    RequestError,
    XplmError,
    one_line,
)

CLIENT_LEFT = 499
"""Status of a response that nobody reads."""

INTERNAL = "the server failed; its log says why"


class ApiError(XplmError):
    """A request is refused."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """A refusal.

        Args:
            message: what holds, what came, and what to do.
            status: of HTTP.
            kind: OpenAI's `type`.
            param: the field of the body that is refused.
            code: OpenAI's `code`.
            headers: of the response.
        """
        super().__init__(message)
        self.status, self.kind, self.param, self.code = status, kind, param, code
        self.headers = headers


class GrammarError(RequestError):
    """A reply cannot go on in the form that its request asks for."""


class ModelError(XplmError):
    """A reply ended without a result, through no fault of the request."""


def as_api_error(error: XplmError) -> ApiError:
    """Any error of the library as a refusal."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, OutOfMemoryError):
        return ApiError(str(error), status=503, kind="server_error", code="out_of_memory")
    if isinstance(error, ModelError):
        return ApiError(str(error), status=500, kind="server_error")
    code = "context_length_exceeded" if isinstance(error, ContextError) else None
    code = "grammar" if isinstance(error, GrammarError) else code
    return ApiError(str(error), code=code)


def error_body(error: ApiError) -> dict[str, Any]:
    """The JSON object of a refusal."""
    fields = {
        "message": str(error),
        "type": error.kind,
        "param": error.param,
        "code": error.code,
    }
    return {"error": fields}


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A response with a JSON body."""
    return Response(msgspec.json.encode(value), status, headers, "application/json")


def error_response(error: ApiError) -> Response:
    """A refusal as a response."""
    return json_response(error_body(error), error.status, error.headers)


async def on_xplm_error(request: Request, error: Exception) -> Response:
    """The response where an endpoint raised an error of the library."""
    assert isinstance(error, XplmError)
    return error_response(as_api_error(error))


async def on_http_error(request: Request, error: Exception) -> Response:
    """The response to an unknown path or method."""
    assert isinstance(error, HTTPException)
    message = f"{error.detail}: {request.method} {one_line(request.url.path)}"
    kind = "not_found_error" if error.status_code == 404 else "invalid_request_error"
    headers = dict(error.headers or {})
    return error_response(ApiError(message, status=error.status_code, kind=kind, headers=headers))


async def on_disconnect(request: Request, error: Exception) -> Response:
    """The response to a client that left in the middle of its request."""
    return Response(status_code=CLIENT_LEFT)


async def on_failure(request: Request, error: Exception) -> Response:
    """The response where a bug shows; the exception goes on to the server's log."""
    return error_response(ApiError(INTERNAL, status=500, kind="server_error"))


HANDLERS: dict[Any, Any] = {
    XplmError: on_xplm_error,
    HTTPException: on_http_error,
    ClientDisconnect: on_disconnect,
    Exception: on_failure,
}
"""Of exceptions, as Starlette takes them."""
