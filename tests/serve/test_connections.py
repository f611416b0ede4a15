"""Connections, and what comes through them: how much there may be of it, and for how long."""

import asyncio
import http.client
import json
import time
from contextlib import closing, suppress
from urllib.parse import urlsplit

import pytest
import uvicorn
from uvicorn.server import ServerState

from tests.generate.tiny import tiny_model
from tests.serve.client import app_of, call, is_at_rest, live
from xplm.serve.connections import FULL, Connection, Idle

COMPLETIONS = "/v1/completions"
GOOD = {"prompt": "hello", "max_tokens": 4, "temperature": 0}


@pytest.fixture(scope="module")
def lm():
    return tiny_model()


def connect(address):
    """A connection that is not opened again where the server ends it."""
    where = urlsplit(address)
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=20)
    connection.connect()
    connection.auto_open = 0
    return closing(connection)


def ask(connection, body=GOOD):
    connection.request("POST", COMPLETIONS, json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def test_connections_beyond_the_limit_are_refused(lm):
    with live(lm, {"most_connections": 2}) as (address, _):
        with connect(address) as first, connect(address) as second:
            assert ask(first)[0] == ask(second)[0] == 200
            with connect(address) as third:
                response = http.client.HTTPResponse(third.sock)
                response.begin()
                assert response.status == 503
                assert json.loads(response.read())["error"]["code"] == "connections_full"
            assert ask(first)[0] == 200
        time.sleep(0.1)
        with connect(address) as again:
            assert ask(again)[0] == 200


class FakeTransport:
    """A client that has not taken yet what was sent to it."""

    def __init__(self):
        self.sent = b""

    def get_extra_info(self, name):
        return None

    def write(self, content):
        self.sent += content

    def close(self):
        """It is closed once the client has taken all."""


def test_a_refused_connection_takes_nobody_elses_place():
    async def app(scope, receive, send):
        """Never asked."""

    async def connect_twice():
        config = uvicorn.Config(
            app, ws="none", lifespan="off", log_config=None, limit_concurrency=2
        )
        state, transports = ServerState(), [FakeTransport(), FakeTransport()]
        for transport in transports:
            Connection(config, state, {}).connection_made(transport)
        assert [transport.sent for transport in transports] == [b"", FULL]
        assert [connection.transport for connection in state.connections] == transports[:1]

    asyncio.run(connect_twice())


def test_a_head_that_does_not_end_ends_its_connection(lm):
    with live(lm, {"idle_seconds": 0.5}) as (address, _), connect(address) as connection:
        connection.sock.sendall(b"POST /v1/completions HTTP/1.1\r\nx:")
        with suppress(ConnectionError):  # as some systems say it
            assert connection.sock.recv(1) == b""


class Cycle:
    """A request and its response."""

    def __init__(self, *, is_complete):
        self.response_complete = is_complete


class FakeConnection:
    """What `Idle` looks at."""

    def __init__(self, cycle):
        self.cycle, self.transport, self.is_ended = cycle, self, False

    def abort(self):
        self.is_ended = True


def test_connections_are_ended_where_no_request_is_under_way():
    fresh, untaken, asking = (
        FakeConnection(None),
        FakeConnection(Cycle(is_complete=True)),
        FakeConnection(None),
    )
    busy = FakeConnection(Cycle(is_complete=False))
    idle = Idle(10.0)
    for now in range(0, 20, 5):
        asking.cycle = Cycle(is_complete=True)  # of the next request
        idle.sweep([fresh, untaken, busy, asking], float(now))
        assert [c.is_ended for c in (fresh, untaken)] == [now > 10] * 2
    assert not busy.is_ended
    assert not asking.is_ended


def test_a_connection_in_use_stays(lm):
    with live(lm, {"idle_seconds": 0.5}) as (address, _), connect(address) as connection:
        end = time.monotonic() + 3
        while time.monotonic() < end:
            assert ask(connection)[0] == 200
            time.sleep(0.1)


def test_bodies_under_way_are_bounded_together(lm):
    large = json.dumps(GOOD | {"user": "x" * 800}).encode()
    with live(lm, bodies_bytes=1000) as (address, _), connect(address) as slow:
        slow.putrequest("POST", COMPLETIONS)
        slow.putheader("content-length", str(len(large)))
        slow.endheaders(large[:-1])
        time.sleep(0.2)
        with connect(address) as other:
            status, answer = ask(other, GOOD | {"user": "x" * 200})
            assert (status, answer["error"]["code"]) == (429, "queue_full")
        slow.send(large[-1:])
        assert slow.getresponse().status == 200
        with connect(address) as other:
            assert ask(other, GOOD | {"user": "x" * 200})[0] == 200


def test_a_reply_counts_until_its_reader_has_it(lm):
    app = app_of(lm, send_seconds=1.0, most_rows=1, most_waiting=0)
    body = GOOD | {"stream": True}
    taken, sent = [], []

    async def stuck(message):
        taken.append(message)
        if len(taken) > 2:
            await asyncio.Event().wait()

    async def read(message):
        sent.append(message)

    async def run():
        async with app.router.lifespan_context(app):
            slow = asyncio.create_task(call(app, COMPLETIONS, body, stuck))
            while len(taken) < 3 or not is_at_rest(app):
                await asyncio.sleep(0.01)
            await call(app, COMPLETIONS, GOOD, read)
            await slow
            await call(app, COMPLETIONS, GOOD, read)

    asyncio.run(run())
    assert [message["status"] for message in sent if "status" in message] == [429, 200]
