"""Connections: how many there may be, and how long one may be of no use.

A connection of no use is one without a request under way: nothing has come yet, or the head of a request is incomplete,
or a response has ended, whether or not the client has taken all of it.
"""

import asyncio
from collections.abc import Iterable
from typing import cast

import msgspec
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from xplm.serve.errors import ApiError, error_body

_BODY = msgspec.json.encode(
    error_body(
        ApiError(
            "this server has as many connections as it takes; try again later",
            kind="server_error",
            code="connections_full",
        )
    )
)
FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n"
    b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)
"""What a client is told for whom there is no connection."""


class Connection(H11Protocol):
    """One connection; refused where it makes as many as the configuration's `limit_concurrency`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        super().connection_made(transport)
        assert self.limit_concurrency is not None
        if len(self.connections) >= self.limit_concurrency:
            self.connections.discard(self)  # uvicorn refuses requests of others while it counts
            transport.write(FULL)
            transport.close()


class Idle:
    """Ends connections that are of no use for too long."""

    def __init__(self, seconds: float) -> None:
        """None has been seen.

        Args:
            seconds: that a connection may be of no use.
        """
        self._seconds = seconds
        self._since: dict[tuple[H11Protocol, RequestResponseCycle | None], float] = {}

    def sweep(self, connections: Iterable[object], now: float) -> None:
        """Look at all connections; call this now and then."""
        found = [cast(H11Protocol, connection) for connection in connections]
        places = [(c, c.cycle) for c in found if c.cycle is None or c.cycle.response_complete]
        self._since = {place: self._since.get(place, now) for place in places}
        for (connection, _), since in self._since.items():
            if now - since > self._seconds:
                connection.transport.abort()
