"""Listening: the application behind uvicorn, from its start until it has ended in order."""

import asyncio
import signal
import socket
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette

from xplm.errors import RequestError
from xplm.serve.connections import Connection, Idle
from xplm.serve.worker import Worker

BACKLOG = 1024
KEEP_ALIVE_SECONDS = 75
IDLE_SECONDS = 120
"""For a client to take a response that has ended, and to ask for another, or for its first."""

SWEEP_TICKS = 10
"""Of a tenth of a second, between looks for those that take longer."""

MOST_CONNECTIONS = 512
"""Open at a time; many systems let a process open 1024 files."""

FAILED_SECONDS = 5
"""For those who wait to be told that the server has failed."""


class Server(uvicorn.Server):
    """Says when it serves, and ends where its worker has."""

    def __init__(
        self,
        app: Starlette,
        on_ready: Callable[[], None],
        *,
        drain_seconds: int,
        idle_seconds: float = IDLE_SECONDS,
        most_connections: int = MOST_CONNECTIONS,
    ) -> None:
        """It does not listen yet.

        Args:
            app: the application.
            on_ready: called once requests are served.
            drain_seconds: for replies that are under way to finish at the end.
            idle_seconds: that a connection may be open without a request under way.
            most_connections: that may be open.
        """
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=drain_seconds,
                limit_concurrency=most_connections + 1,
            )
        )
        self._on_ready = on_ready
        self._idle = Idle(idle_seconds)
        self._worker: Worker = app.state.serving.worker

    @property
    def has_failed(self) -> bool:
        """Whether a bug has ended the worker."""
        return self._worker.failure is not None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve."""
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    async def on_tick(self, counter: int) -> bool:
        """Whether to end, which uvicorn asks ten times a second."""
        if counter % SWEEP_TICKS == 0:
            self._idle.sweep(self.server_state.connections, asyncio.get_running_loop().time())
        if self.has_failed:
            self.config.timeout_graceful_shutdown = FAILED_SECONDS
            self.should_exit = True
        return await super().on_tick(counter)


def listen(
    app: Starlette,
    host: str,
    port: int,
    *,
    on_ready: Callable[[str], None],
    drain_seconds: int,
) -> bool:
    """Serve until SIGTERM or SIGINT; replies that are under way then finish first.

    Args:
        app: the application.
        host: the address to listen on.
        port: 0 takes one that is free.
        on_ready: is given the server's address once requests are served.
        drain_seconds: for replies to finish.

    Returns:
        Whether it was told to end; False where a bug ended it, which its log then shows.

    Raises:
        RequestError: the address cannot be listened on.
    """
    listening = open_socket(host, port)
    address = address_of(listening)
    server = Server(app, lambda: on_ready(address), drain_seconds=drain_seconds)
    # When it has ended, uvicorn sends itself the signal again, for handlers that were there before.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        asyncio.run(server.serve(sockets=[listening]))
    finally:
        signal.signal(signal.SIGTERM, before)
    return not server.has_failed


def open_socket(host: str, port: int) -> socket.socket:
    """A socket that connections can be made to.

    Raises:
        RequestError: the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise RequestError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another --host or --port"
        ) from error


def address_of(listening: socket.socket) -> str:
    """The URL of a socket, such as "http://127.0.0.1:8000"."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
