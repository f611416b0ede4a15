"""The body of a request: read within limits, and parsed into a struct.

A field that nobody knows is ignored and named in the response's `warnings`. One that is known and not supported is
refused, unless it has a value that changes nothing.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xplm.errors import one_line
from xplm.serve.errors import ApiError

T = TypeVar("T", bound=msgspec.Struct)

MOST_NAMED = 20
"""Unknown fields that are named."""

NO_EFFECT = frozenset(
    {
        "user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
        "store", "request_id", "priority",
    }
)  # fmt: skip
"""Fields that change no reply."""

_FIELD = re.compile(r"`\$\.(\w+)")


class Bodies:
    """Bounds the bodies, taken together, of one owner's requests whose responses have not ended."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        """Bound those of an application.

        Args:
            app: behind what sets the owner of a request.
            limit: bytes, at most.
        """
        self._app, self._limit = app, limit
        self._n_bytes: Counter[str] = Counter()  # by owner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        owner, n_own = scope.get("owner", ""), 0

        async def receive_counted() -> Message:
            nonlocal n_own
            message = await receive()
            n_new = len(message.get("body", b""))
            n_own += n_new
            self._n_bytes[owner] += n_new
            if n_new and self._n_bytes[owner] > self._limit:
                raise ApiError(
                    f"the bodies of all requests under way may have {self._limit} bytes; try again later",
                    status=429,
                    kind="rate_limit_error",
                    code="queue_full",
                    headers={"retry-after": "1"},
                )
            return message

        try:
            await self._app(scope, receive_counted, send)
        finally:
            self._n_bytes[owner] -= n_own


async def read_body(request: Request, limit: int, seconds: float) -> bytes:
    """The whole body.

    Args:
        request: the request.
        limit: bytes, at most.
        seconds: for the body to arrive.

    Raises:
        ApiError: it is larger, or takes longer.
        ClientDisconnect: the client left.
    """
    too_large = ApiError(
        f"a request's body may have {limit} bytes; send less", status=413, code="body_too_large"
    )
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared[:20]) > limit:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise too_large
    except TimeoutError:
        raise ApiError(f"a request's body must arrive within {seconds:g} s", status=408) from None
    return bytes(body)


def parse_body(body: bytes, kind: type[T], unsupported: Mapping[str, Any]) -> tuple[T, list[str]]:
    """A body as a struct.

    Args:
        body: JSON.
        kind: the struct.
        unsupported: fields that are known and not supported, and a value of each that changes nothing, beside null.

    Returns:
        The struct, and a warning for each unknown field.

    Raises:
        ApiError: the body is malformed, or asks for what is not supported.
    """
    try:
        fields = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise ApiError(f"a request's body must be JSON in UTF-8; got: {error}") from None
    except RecursionError:
        raise ApiError("a request's body must be JSON; it is nested too deep") from None
    if not isinstance(fields, dict):
        raise ApiError(f"a request's body must be a JSON object; got {type(fields).__name__}")
    for name, neutral in unsupported.items():
        if name in fields and fields[name] is not None and fields[name] != neutral:
            raise ApiError(
                f'"{name}" is not supported; leave it out',
                param=name,
                code="unsupported_parameter",
            )
    given = {name: value for name, value in fields.items() if name not in unsupported}
    try:
        parsed = msgspec.convert(given, kind, str_keys=True)
    except msgspec.ValidationError as error:
        found = _FIELD.search(str(error))
        raise ApiError(str(error), param=found[1] if found else None) from None
    known = {field.encode_name for field in msgspec.structs.fields(kind)} | NO_EFFECT
    unknown = [name for name in given if name not in known]
    warnings = [
        f'unknown field "{one_line(name)[:80]}" is ignored' for name in unknown[:MOST_NAMED]
    ]
    if len(unknown) > MOST_NAMED:
        warnings.append(f"and {len(unknown) - MOST_NAMED} more")
    return parsed, warnings
