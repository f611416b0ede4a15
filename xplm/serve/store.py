"""Conversations on the disk: a JSON file each, written to the side and renamed, so that none is ever half there.

All of them are held in memory, too, so that the limits on their bytes bound both.
"""

import logging
import re
import secrets
import time
from collections import Counter
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout
from starlette.concurrency import run_in_threadpool

from xplm.checkpoint.files import replacing
from xplm.checkpoint.untrusted import read_bytes
from xplm.errors import CheckpointError, RequestError
from xplm.serve.errors import ApiError
from xplm.serve.turns import Turn

MOST_SESSIONS = 10_000
"""Of one owner."""

MOST_BYTES = 16 << 20
"""Of a conversation's file."""

PRIVATE = 0o600
"""The mode of a file: its owner's alone."""

LOCK = ".lock"

_ID = re.compile(r"session-[0-9a-f]{24}")
_LOG = logging.getLogger("xplm.serve")


class Session(msgspec.Struct, frozen=True):
    """One conversation."""

    id: str
    owner: str  # the digest of an API key; empty where none is asked for
    created: int  # seconds since 1970
    updated: int
    title: str = ""
    system: str | None = None
    turns: tuple[Turn, ...] = ()
    parent: str | None = None  # the session that it was forked from


class Store:
    """The conversations of a directory. The event loop alone calls it; files are written in other threads."""

    def __init__(self, directory: Path, *, owner_bytes: int, all_bytes: int) -> None:
        """Read what is there. A file that is no conversation stays, and is named in the log.

        Args:
            directory: made where it is not there; this store's alone until it is closed.
            owner_bytes: of the conversations of one owner, at most.
            all_bytes: of all, at most.

        Raises:
            RequestError: the directory cannot be made or read, or is another server's.
        """
        self._directory = directory
        self._owner_bytes, self._all_bytes = owner_bytes, all_bytes
        self._sessions: dict[str, Session] = {}
        self._sizes: dict[str, int] = {}  # bytes of each, or of what it is about to become
        self._n_bytes: Counter[str] = Counter()  # the same, by owner
        self._busy: set[str] = set()
        self._lock = FileLock(directory / LOCK, mode=PRIVATE, thread_local=False)
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            paths = sorted(directory.glob("session-*.json"))
        except Timeout as error:
            raise RequestError(
                f'conversations have one server; another uses "{directory}"; stop it, or choose another --sessions'
            ) from error
        except OSError as error:
            raise RequestError(
                f'conversations need a directory; "{directory}" is none: {error.strerror}'
            ) from error
        for path in paths:
            try:
                content = read_bytes(path, MOST_BYTES)
                session = msgspec.json.decode(content, type=Session)
            except (OSError, CheckpointError, msgspec.DecodeError, RecursionError) as error:
                _LOG.warning("%s is no conversation: %s", path, error)
                continue
            if path.stem == session.id and _ID.fullmatch(session.id):
                self._sessions[session.id] = session
                self._resize(session, len(content))

    def close(self) -> None:
        """Let another have the directory. A process that ends lets go of it, too."""
        self._lock.release()

    def of_owner(self, owner: str) -> list[Session]:
        """All of an owner's, the one that changed last first."""
        found = [session for session in self._sessions.values() if session.owner == owner]
        return sorted(found, key=lambda session: (session.updated, session.id), reverse=True)

    def find(self, name: str, owner: str) -> Session:
        """One of an owner's.

        Raises:
            ApiError: the owner has none of that name.
        """
        session = self._sessions.get(name)
        if session is None or session.owner != owner:
            raise ApiError(
                f"there is no conversation {name[:80]}",
                status=404,
                kind="not_found_error",
                code="session_not_found",
            )
        return session

    def start(
        self,
        owner: str,
        *,
        title: str = "",
        system: str | None = None,
        turns: tuple[Turn, ...] = (),
        parent: str | None = None,
    ) -> Session:
        """A conversation with a name of its own; it is there once it is saved.

        Raises:
            ApiError: the owner has too many.
        """
        if len(self.of_owner(owner)) >= MOST_SESSIONS:
            raise ApiError(
                f"there may be {MOST_SESSIONS} conversations; delete some", status=429, code="full"
            )
        now, name = int(time.time()), f"session-{secrets.token_hex(12)}"
        return Session(name, owner, now, now, title, system, turns, parent)

    async def save(self, session: Session) -> Session:
        """Write a conversation; it is the stored one when this returns.

        Raises:
            ApiError: it is too large, or there are too many, or the disk refuses.
        """
        session = msgspec.structs.replace(session, updated=int(time.time()))
        content = msgspec.json.encode(session)
        if len(content) > MOST_BYTES:
            raise ApiError(f"a conversation may have {MOST_BYTES} bytes; fork it", status=413)
        before = self._sizes.get(session.id, 0)
        self._require_room(session.owner, len(content) - before)
        self._resize(session, len(content))
        is_written = False
        try:
            await run_in_threadpool(_write, self._path(session.id), content)
            is_written = True
        finally:
            if not is_written:
                self._resize(session, before)
        self._sessions[session.id] = session
        return session

    async def delete(self, session: Session) -> None:
        """Remove a conversation."""
        await run_in_threadpool(self._path(session.id).unlink, missing_ok=True)
        self._sessions.pop(session.id, None)
        self._resize(session, 0)

    def hold(self, session: Session) -> None:
        """Keep others from changing a conversation, until `release`.

        Raises:
            ApiError: another request does.
        """
        if session.id in self._busy:
            raise ApiError(
                "a conversation is changed by one request at a time; wait for the other, or close it",
                status=409,
                code="session_busy",
            )
        self._busy.add(session.id)

    def release(self, session: Session) -> None:
        """Let others change it."""
        self._busy.discard(session.id)

    def _require_room(self, owner: str, n_more: int) -> None:
        if n_more <= 0:
            return
        if self._n_bytes[owner] + n_more > self._owner_bytes:
            raise ApiError(
                f"the conversations of a key may have {self._owner_bytes} bytes; delete some",
                status=413,
                code="sessions_full",
            )
        if self._n_bytes.total() + n_more > self._all_bytes:
            raise ApiError(
                f"the conversations of a server may have {self._all_bytes} bytes; delete some",
                status=507,
                kind="server_error",
                code="sessions_full",
            )

    def _resize(self, session: Session, n_bytes: int) -> None:
        self._n_bytes[session.owner] += n_bytes - self._sizes.pop(session.id, 0)
        if n_bytes:
            self._sizes[session.id] = n_bytes

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.json"


def _write(path: Path, content: bytes) -> None:
    try:
        with replacing(path, PRIVATE) as file:
            file.write(content)
    except OSError as error:
        raise ApiError(
            f"a conversation could not be written: {error.strerror}",
            status=507,
            kind="server_error",
        ) from error
