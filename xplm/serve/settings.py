"""How a server is set up."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """What `xplm serve` is told, and limits."""

    model: str
    """Name that the model is served under."""
    takes_any_model: bool = False
    """Whether requests may name another model, and get this one."""
    hosts: frozenset[str] = frozenset()
    """Names, beside localhost and addresses, that a request's `Host` may have."""
    origins: frozenset[str] = frozenset()
    """Origins, beside the server's own, whose web pages may use it, such as "https://example.org"."""
    key_digests: frozenset[str] = frozenset()
    """Of the API keys; empty: none is asked for."""
    cache_bytes: int | None = None
    """Of keys and values, at most; None: what the device holds."""
    sessions: Path | None = None
    """Directory of conversations; None: none are kept."""
    owner_sessions_bytes: int = 256 << 20
    """Of the conversations of one key, at most."""
    sessions_bytes: int = 1 << 30
    """Of all conversations, at most."""
    most_rows: int = 32
    """Replies that grow at a time."""
    most_waiting: int = 1024
    """Replies that wait, at most."""
    body_bytes: int = 8 << 20
    """Of a request's body, at most."""
    bodies_bytes: int = 64 << 20
    """Of the bodies of all requests of one key that are under way, at most."""
    body_seconds: float = 60.0
    """For a request's body to arrive."""
    reply_seconds: float = 3600.0
    """For a reply, from the request to its last token."""
    send_seconds: float = 120.0
    """For a client to take what is sent."""
