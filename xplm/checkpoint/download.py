"""Large files over HTTP: resumed where the last attempt stopped, checked, and renamed when they are whole.

The hub's library makes the requests: proxies and certificates are those that it honours (HTTPS_PROXY, SSL_CERT_FILE).
"""

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from xplm.checkpoint.files import rename, sync
from xplm.errors import DownloadError
from xplm.progress import OnProgress


def download(
    url: str,
    partial: Path,
    n_bytes: int,
    name: str,
    progress: OnProgress,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Bring a file to its full length.

    Args:
        url: where it is.
        partial: receives the bytes; what it holds already is kept.
        n_bytes: the file's length.
        name: the file's, for `progress`.
        progress: called as bytes arrive.
        headers: of the requests.

    Raises:
        DownloadError: fewer bytes came.
        ValueError: the address is malformed.
    """
    if not is_address(url):
        raise ValueError("a malformed address")
    from huggingface_hub.file_download import http_get

    is_link = partial.is_symlink()  # never written through
    if is_link or (partial.exists() and partial.stat().st_size > n_bytes):
        partial.unlink()
    with partial.open("ab", buffering=0) as out:  # so that a kill loses nothing that arrived
        try:
            http_get(
                url,
                out,
                resume_size=out.tell(),
                headers=dict(headers or {}),
                expected_size=n_bytes,
                tqdm_class=bar_class(name, progress),
            )
        except OSError as cause:
            if not _is_incomplete(cause):
                raise
            n_came = os.fstat(out.fileno()).st_size
            raise DownloadError(
                f"{name} could not be fetched: {n_came} of {n_bytes} bytes came; pull again"
            ) from cause
        sync(out.fileno())


def keep(partial: Path, target: Path, sha256: str, name: str) -> None:
    """Give a downloaded file its name, or remove it.

    Raises:
        DownloadError: its checksum is wrong.
    """
    with partial.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        partial.unlink()
        raise DownloadError(
            f"{name} must have SHA-256 {sha256}; got {found}; it was removed; pull again"
        )
    rename(partial, target)


@contextmanager
def explained(name: str, server: str) -> Iterator[None]:
    """Turn what a server or the network does to a fetch into an error that says why; a disk's errors pass.

    The hub's library logs its retries, with advice that is its own; it is silent meanwhile.

    Args:
        name: what is fetched.
        server: whom it is fetched from, as in "the hub".

    Raises:
        DownloadError: the fetch failed.
    """
    require_hub_library()
    from huggingface_hub import errors

    log = logging.getLogger("huggingface_hub")
    level = log.level
    failure: Exception
    try:
        log.setLevel(logging.CRITICAL)
        yield
        return
    except errors.GatedRepoError as cause:
        reason, failure = "its owner must grant you access first; then run: hf auth login", cause
    except errors.RepositoryNotFoundError as cause:
        reason, failure = "there is no such repository, or it is private; check the name", cause
    except errors.HfHubHTTPError as cause:
        reason, failure = f"{server} answered {cause.response.status_code}; pull again later", cause
    except errors.OfflineModeIsEnabled as cause:
        reason, failure = "HF_HUB_OFFLINE is set; unset it and pull again", cause
    except errors.LocalEntryNotFoundError as cause:
        reason, failure = _offline(server), cause
    except errors.HTTPError as cause:  # type: ignore[attr-defined]  # its HTTP library's base
        reason, failure = _offline(server), cause
    except ValueError as cause:  # an answer in another format
        reason, failure = f"{server} does not answer as it should; check its address", cause
    except OSError as cause:
        if cause.errno is not None and not isinstance(cause, ConnectionError):
            raise
        said = (
            "not all of its bytes came" if _is_incomplete(cause) else cause.strerror or str(cause)
        )
        reason, failure = f"{' '.join(said.split())}; pull again", cause
    finally:
        log.setLevel(level)
    raise DownloadError(f"{name} could not be fetched: {reason}") from failure


def require_hub_library() -> None:
    """Import the hub's library, which reads its settings as it is imported.

    Raises:
        DownloadError: one of them is malformed.
    """
    try:
        import huggingface_hub.constants  # noqa: F401
    except ValueError as cause:
        raise DownloadError(
            f"the settings of the hub's library must be well-formed; got: {cause}; "
            "correct HF_ENDPOINT, or whichever HF_ variable it is"
        ) from cause


def is_address(url: str) -> bool:
    """Whether a request can be made of it."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port  # which it checks
        host.encode("idna")
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and host != "" and url.isprintable()


def _is_incomplete(cause: OSError) -> bool:
    """Whether it is the library's complaint of too few bytes, which has no class or number of its own."""
    return type(cause) is OSError and cause.errno is None


def _offline(server: str) -> str:
    return f"there is no network connection to {server}; connect and pull again"


def bar_class(name: str, progress: OnProgress) -> Any:
    """A progress bar class for the hub's library; its bars report to the callback."""

    class Bar:
        def __init__(self, *_: Any, total: int | None = None, initial: int = 0, **__: Any) -> None:
            self.n_bytes, self.total_bytes = initial, total

        def update(self, n_bytes: int = 1) -> None:
            self.n_bytes += n_bytes
            progress(name, self.n_bytes, self.total_bytes)

        def close(self) -> None:
            pass

        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *_: object) -> None:
            pass

    return Bar
