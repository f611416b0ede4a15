"""A package index of one wheel, on loopback: the project's page as JSON or HTML, and the file with byte ranges."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote


@dataclass
class FakeIndex:
    """What the index holds, and what it was asked for."""

    project: str
    wheel: str
    content: bytes
    address: str = ""
    speaks_json: bool = True
    page: str | None = None  # its listing, in the place of the right one
    first_bytes: list[int] = field(default_factory=list)  # of each GET of the wheel


@contextmanager
def fake_index(project: str, wheel: str, content: bytes) -> Iterator[FakeIndex]:
    """Serve the wheel while the block runs."""
    index = FakeIndex(project, wheel, content)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            if self.path == f"/simple/{index.project}/":
                self._send(200, *self._page())
            elif self.path == f"/files/{quote(index.wheel)}":
                asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
                first = int(asked[1]) if asked else 0
                index.first_bytes.append(first)
                size = len(index.content)
                whole = {"Content-Range": f"bytes {first}-{size - 1}/{size}"} if asked else {}
                body = index.content[first:]
                self._send(206 if asked else 200, body, "application/zip", whole)
            else:
                self._send(404, b"", "text/plain")

        def _page(self) -> tuple[bytes, str]:
            other, url = "/files/other-1.0-py3-none-any.whl", f"../../files/{quote(index.wheel)}"
            if index.speaks_json:
                page = index.page or json.dumps({"files": [{"url": other}, {"url": url}]})
                return page.encode(), "application/vnd.pypi.simple.v1+json"
            page_text = f'<a href="{other}">other</a><a href="{url}#sha256=00">wheel</a>'
            return page_text.encode(), "text/html; charset=utf-8"

        def _send(
            self, status: int, content: bytes, kind: str, headers: dict[str, str] | None = None
        ) -> None:
            self.send_response(status)
            headers = {"Content-Length": str(len(content)), "Content-Type": kind} | (headers or {})
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    index.address = f"http://127.0.0.1:{server.server_address[1]}/simple"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield index
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
