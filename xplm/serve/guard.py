"""Who may talk to the server: `Host`, `Origin` and API keys are checked before anything else is read.

A web page elsewhere that makes a browser send requests here shows its own `Origin`, or, where it has pointed its own
name at this machine, its own `Host`. Both are refused unless the server was told to allow them; only then are CORS
headers sent.
"""

import hashlib
import ipaddress
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xplm.serve.errors import ApiError, error_response
from xplm.serve.keys import read_key_lines
from xplm.serve.settings import Settings
from xplm.serve.static import is_of_page

LOCAL = "localhost"
OPEN_PATHS = frozenset({"/health", "/v1/health", "/models", "/v1/models"})
"""Paths that take no key, beside those of the page."""

SAFE_HEADERS = {
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """Lets requests through to an application, or refuses them."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        """Guard an application.

        Args:
            app: the application.
            settings: whom to let through.
        """
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection; `scope["owner"]` is then whose it is."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        is_told = origin is not None and origin.lower() in self._settings.origins

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                added = MutableHeaders(scope=message)
                added.update(SAFE_HEADERS)
                if origin is not None and is_told:
                    added["access-control-allow-origin"] = origin
                    added["cross-origin-resource-policy"] = "cross-origin"
                    added.add_vary_header("Origin")
            await send(message)

        try:
            self._require_host(headers)
            self._require_origin(headers)
            if scope["method"] == "OPTIONS":
                await _preflight(is_told)(scope, receive, send_safely)
                return
            scope["owner"] = self._owner(scope["path"], headers)
        except ApiError as error:
            await error_response(error)(scope, receive, send_safely)
            return
        await self._app(scope, receive, send_safely)

    def _require_host(self, headers: Headers) -> None:
        name = host_name(headers.get("host", ""))
        if not (name == LOCAL or is_address(name) or name in self._settings.hosts):
            raise ApiError(
                f"Host must be localhost, an address, or a name that the server was told; got {name!r:.100}; "
                "start it with --allow-host",
                status=403,
                code="host_not_allowed",
            )

    def _require_origin(self, headers: Headers) -> None:
        origin = headers.get("origin")
        if origin is None or origin.lower() in self._settings.origins:
            return
        own = headers.get("host", "").lower()
        if origin.lower() not in (f"http://{own}", f"https://{own}"):
            raise ApiError(
                f"a web page may use this server if it comes from it; got one of {origin!r:.100}; "
                "start it with --allow-origin",
                status=403,
                code="origin_not_allowed",
            )

    def _owner(self, path: str, headers: Headers) -> str:
        """The digest of the request's key; empty where none is asked for."""
        if not self._settings.key_digests:
            return ""
        scheme, _, key = headers.get("authorization", "").partition(" ")
        digest = key_digest(key.strip()) if scheme.lower() == "bearer" else ""
        if digest in self._settings.key_digests:
            return digest
        if path in OPEN_PATHS or is_of_page(path):
            return ""
        raise ApiError(
            "this server asks for one of its API keys, as Authorization: Bearer KEY",
            status=401,
            kind="authentication_error",
            code="invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )


def host_name(host: str) -> str:
    """The name in a Host header, without the port, in lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower().rstrip(".")


def is_address(name: str) -> bool:
    """Whether a name is an IP address, which no other machine's name can be pointed at."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def key_digest(key: str) -> str:
    """What stands for a key, and for its owner."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(path: Path) -> frozenset[str]:
    """The digests of the keys in a file.

    Raises:
        RequestError: the file cannot be read, or has no key, or one that clients cannot send.
    """
    return frozenset(map(key_digest, read_key_lines(path)))


def _preflight(is_told: bool) -> Response:
    """The answer to a browser that asks what a web page may send."""
    headers = {"allow": "GET, POST, PATCH, DELETE, OPTIONS"}
    if is_told:
        headers |= {
            "access-control-allow-methods": headers["allow"],
            "access-control-allow-headers": "authorization, content-type",
            "access-control-max-age": "600",
        }
    return Response(status_code=204, headers=headers)
