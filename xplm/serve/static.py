"""The page at `/`: the files of `page/`, which hold no conversation and are the same for everybody."""

import hashlib
from importlib.resources import files
from typing import NamedTuple

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

INDEX = "index.html"
UNDER = "/page/"

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)
"""Of a browser that shows the page: its own files alone, nothing inline, no text ever parsed as markup."""

HEADERS = {
    "content-security-policy": POLICY,
    "cache-control": "no-cache",  # kept, and asked for again each time
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
}


class PageFile(NamedTuple):
    """One file of the page."""

    content: bytes
    headers: dict[str, str]


def page_routes() -> list[Route]:
    """The index at `/`, and every other file under `/page/`."""
    found = _read()

    async def index(request: HttpRequest) -> Response:
        return _answer(request, found[INDEX])

    def route(name: str) -> Route:
        async def file(request: HttpRequest) -> Response:
            return _answer(request, found[name])

        return Route(UNDER + name, file)

    return [Route("/", index), *(route(name) for name in sorted(found) if name != INDEX)]


def is_of_page(path: str) -> bool:
    """Whether a path is the page's, which takes no key."""
    return path == "/" or path.startswith(UNDER)


def _read() -> dict[str, PageFile]:
    found = {}
    for file in (files("xplm.serve") / "page").iterdir():
        ending = file.name[file.name.rfind(".") :]
        if ending in TYPES:
            content = file.read_bytes()
            tag = f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
            headers = HEADERS | {"content-type": TYPES[ending], "etag": tag}
            found[file.name] = PageFile(content, headers)
    return found


def _answer(request: HttpRequest, file: PageFile) -> Response:
    tags = request.headers.get("if-none-match", "")
    if file.headers["etag"] in [tag.strip().removeprefix("W/") for tag in tags.split(",")]:
        return Response(status_code=304, headers=file.headers)
    return Response(file.content, headers=file.headers)
