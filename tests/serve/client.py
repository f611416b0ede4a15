"""A tiny model behind the server, in this process or on a socket."""

import asyncio
import json
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

from tests.generate.tiny import tiny_model
from xplm.generate.engine import Engine

WHY = 'the extra "serve" is not installed'
NEEDED = ("starlette", "uvicorn", "msgspec", "prometheus_client", "llguidance", "httpx", "openai")
for library in NEEDED:
    pytest.importorskip(library, reason=WHY)

from starlette.testclient import TestClient  # noqa: E402

from xplm.serve.app import make_app  # noqa: E402
from xplm.serve.listen import Server, address_of, open_socket  # noqa: E402
from xplm.serve.settings import Settings  # noqa: E402

NAME = "tiny"
CACHE_BYTES = 1 << 22


def app_of(lm=None, **settings):
    given = {"model": NAME, "cache_bytes": CACHE_BYTES} | settings
    return make_app(lm or tiny_model(), Settings(**given))


@contextmanager
def client_of(lm=None, **settings):
    """A client that talks to the application without a socket."""
    with TestClient(app_of(lm, **settings), base_url="http://localhost") as client:
        yield client


@contextmanager
def live(lm=None, server=None, **settings):
    """A server on a free port: its address, and the application. `server`: what else a Server is told."""
    app, is_ready = app_of(lm, **settings), threading.Event()
    server = Server(app, is_ready.set, drain_seconds=20, **(server or {}))
    listening = open_socket("127.0.0.1", 0)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])))
    thread.start()
    try:
        assert is_ready.wait(30)
        yield address_of(listening), app
    finally:
        server.should_exit = True
        thread.join()


def call(app, path, body, send):
    """Send one request to an application that runs, from the event loop that it runs in."""
    sent = iter([{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}])

    async def receive():
        for message in sent:
            return message
        await asyncio.Event().wait()

    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
        "root_path": "", "headers": [(b"host", b"localhost")], "http_version": "1.1", "scheme": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
    }  # fmt: skip
    return app(scope, receive, send)


def wait_until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.01)


def is_at_rest(app):
    """Whether nothing is served, and no page is held."""
    scheduler = app.state.serving.worker.scheduler
    return scheduler.is_idle and scheduler.pool.held_bytes == 0


def chunks_of(text):
    """The JSON objects of server-sent events, after checking that [DONE] ends them."""
    *lines, done = [line for line in text.split("\n") if line]
    assert done == "data: [DONE]"
    assert all(line.startswith("data: ") for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines]


@contextmanager
def slowed(seconds):
    """Every pass takes a while longer."""
    read = Engine.read

    def slow(self, *args, **options):
        time.sleep(seconds)
        return read(self, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "read", slow)
        yield


@contextmanager
def saying(tokenizer, text):
    """Have a model say a text, special tokens spelled out, and then token 1, which ends it, to one request."""
    script = iter([*tokenizer.encode(text, add_special_tokens=False), 1])
    read = Engine.read

    def scripted(self, *args, **options):
        logits = np.zeros_like(read(self, *args, **options))
        logits[:, next(script, 1)] = 1.0
        return logits

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "read", scripted)
        yield
