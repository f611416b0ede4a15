"""Large files over HTTP: resumed where the last attempt stopped, checked, and renamed when they are whole.

The hub's library makes the requests: proxies and certificates are those that it honours (HTTPS_PROXY, SSL_CERT_FILE).
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xplm.checkpoint.files import Progress, rename, sync
from xplm.errors import DownloadError


def download(
    url: str,
    partial: Path,
    n_bytes: int,
    name: str,
    progress: Progress,
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
    """
    from huggingface_hub.file_download import http_get

    is_link = partial.is_symlink()  # never written through
    if is_link or (partial.exists() and partial.stat().st_size > n_bytes):
        partial.unlink()
    with partial.open("ab", buffering=0) as out:  # so that a kill loses nothing that arrived
        http_get(
            url,
            out,
            resume_size=out.tell(),
            headers=dict(headers or {}),
            expected_size=n_bytes,
            tqdm_class=bar_class(name, progress),
        )
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

    Args:
        name: what is fetched.
        server: whom it is fetched from, as in "the hub".

    Raises:
        DownloadError: the fetch failed.
    """
    from huggingface_hub import errors

    failure: Exception
    try:
        yield
        return
    except errors.GatedRepoError as cause:
        reason, failure = "its owner must grant you access first; then run: hf auth login", cause
    except errors.RepositoryNotFoundError as cause:
        reason, failure = "there is no such repository, or it is private; check the name", cause
    except errors.HfHubHTTPError as cause:
        reason, failure = f"{server} answered {cause.response.status_code}; pull again later", cause
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as cause:
        reason, failure = _offline(server), cause
    except errors.HTTPError as cause:  # type: ignore[attr-defined]  # its HTTP library's base
        reason, failure = _offline(server), cause
    except ValueError as cause:  # an answer in another format
        reason, failure = f"{server} does not answer as it should; check its address", cause
    except OSError as cause:
        if cause.errno is not None and not isinstance(cause, ConnectionError):
            raise
        said = cause.strerror or str(cause)  # the library's own: too few bytes came
        reason, failure = f"{' '.join(said.split())}; pull again", cause
    raise DownloadError(f"{name} could not be fetched: {reason}") from failure


def _offline(server: str) -> str:
    return f"there is no network connection to {server}; connect and pull again"


def bar_class(name: str, progress: Progress) -> Any:
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
