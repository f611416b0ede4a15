"""A Hugging Face hub of one repository, on loopback: listing, metadata, and files with byte ranges."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "org/tiny"


@dataclass
class FakeHub:
    """What the hub holds, and what it was asked for."""

    files: dict[str, bytes]
    endpoint: str = ""
    ranges: list[tuple[str, int]] = field(default_factory=list)  # (file, first byte) of each GET
    stall_at: int | None = None  # a GET of weights stops after so many bytes
    wrong_bytes: bool = False  # weights are not what their etag says
    released: threading.Event = field(default_factory=threading.Event)  # ends stalled GETs


@contextmanager
def fake_hub(files: dict[str, bytes]) -> Iterator[FakeHub]:
    """Serve a repository while the block runs."""
    hub = FakeHub(files)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._respond(body=False)

        def do_GET(self) -> None:
            self._respond(body=True)

        def _respond(self, body: bool) -> None:
            path = self.path.partition("?")[0]
            if path == f"/api/models/{REPO}":
                listing = {"id": REPO, "sha": COMMIT}
                listing |= {"siblings": [{"rfilename": name} for name in hub.files]}
                self._send(200, json.dumps(listing).encode(), {}, body)
                return
            match = re.fullmatch(rf"/{REPO}/resolve/\w+/(.+)", path)
            if match is None or match[1] not in hub.files:
                self._send(404, b"", {"X-Error-Code": "RepoNotFound"}, body)
                return
            self._send_file(match[1], body)

        def _send_file(self, name: str, body: bool) -> None:
            content = hub.files[name]
            headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            first = int(asked[1]) if asked else 0
            if body:
                hub.ranges.append((name, first))
            if asked:
                headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            weights = name.endswith(".safetensors")
            if weights and hub.wrong_bytes:
                content = bytes(len(content))
            stall_at = hub.stall_at if weights and body else None
            self._send(206 if asked else 200, content[first:], headers, body, stall_at)

        def _send(
            self,
            status: int,
            content: bytes,
            headers: dict[str, str],
            body: bool,
            stall_at: int | None = None,
        ) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(content[:stall_at])
            if stall_at is not None:
                self.wfile.flush()
                hub.released.wait(30)
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
