"""Fetching a model from the Hugging Face hub into the cache that every Hugging Face library shares.

    <cache>/models--org--name/blobs/<etag>                 a file; the etag of a large one is its SHA-256
    <cache>/models--org--name/snapshots/<commit>/<file>    a link to it

The hub's library talks to the server, holds the token, and keeps that layout. It forgets a file that was interrupted,
so a large file is brought here: into a partial file that the next attempt appends to, checked, then renamed to its
blob, where the library finds it.

Small files come first, so a snapshot that has all its weights has all of it.
"""

import errno
import re
from pathlib import Path
from typing import NamedTuple

from xplm.checkpoint.download import (
    bar_class,
    download,
    explained,
    is_address,
    keep,
    require_hub_library,
)
from xplm.checkpoint.huggingface import (
    ADAPTER_CONFIG,
    CONFIG,
    INDEX,
    WEIGHTS,
    indexed_shards,
    shard_names,
)
from xplm.errors import CheckpointError, DownloadError
from xplm.progress import OnProgress

TOKENIZER = "tokenizer.json"
SMALL_FILES = (
    CONFIG,
    INDEX,
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
)
TEMPLATES = re.compile(r"additional_chat_templates/\w[\w.-]*\.jinja", re.ASCII)
SHA256_DIGITS = 64
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
MAX_ID_LENGTH = 96  # characters


class HubFile(NamedTuple):
    """A file in a repository of the hub."""

    repo: str  # "org/name"
    name: str
    revision: str  # commit


def is_hub_id(name: str) -> bool:
    """Whether a name reads as `org/name` by the hub's rules, and not as a path."""
    word = r"\w(?:[\w.-]*\w)?"
    well_formed = re.fullmatch(f"{word}/{word}", name, re.ASCII) is not None
    return well_formed and len(name) <= MAX_ID_LENGTH and not re.search(r"--|\.\.|\.git$", name)


def resolve_in_hub_cache(repo: str, cache: Path | None) -> Path | None:
    """Find a repository's snapshot in the cache.

    Args:
        repo: "org/name".
        cache: the cache; None for the hub library's own place.

    Returns:
        Its directory, or None where it is missing or not whole.
    """
    require_hub_library()
    from huggingface_hub import try_to_load_from_cache  # 0.1 s to import, and rarely needed

    config = try_to_load_from_cache(repo, CONFIG, cache_dir=cache)
    if not isinstance(config, str):
        return None
    snapshot = Path(config).parent
    try:
        shard_names(snapshot)
    except CheckpointError:
        return None
    return snapshot if (snapshot / TOKENIZER).is_file() else None


def pull_from_hub(
    repo: str, cache: Path | None, endpoint: str | None, progress: OnProgress
) -> Path:
    """Fetch what a model needs from a repository: configuration, tokenizer and safetensors, never pickle.

    Args:
        repo: "org/name".
        cache: where to put it; None for the hub library's own place.
        endpoint: the hub's address; None for the hub library's own.
        progress: called with the file's name, the bytes so far, and their total where it is known.

    Returns:
        The snapshot's directory.

    Raises:
        DownloadError: no network, no such repository, no right to it, nothing in it that xplm can load, a wrong
            checksum, or a full disk.
    """
    require_hub_library()
    from huggingface_hub import constants

    cache = cache or Path(constants.HF_HUB_CACHE)
    try:
        with explained(repo, "the hub"):
            _check_endpoint(endpoint)
            return _pull(repo, cache, endpoint, progress)
    except OSError as cause:
        advice = "make room and pull again" if cause.errno in FULL_DISK else "pull again"
        raise DownloadError(f"{repo} could not be fetched: {cause.strerror}; {advice}") from cause


def _pull(repo: str, cache: Path, endpoint: str | None, progress: OnProgress) -> Path:
    from huggingface_hub import HfApi

    files = [s.rfilename for s in HfApi(endpoint=endpoint).model_info(repo).siblings or []]
    _check_files(repo, files)
    for name in SMALL_FILES:
        if name in files:
            path = _fetch(repo, name, cache, endpoint, progress)
    snapshot = path.parent
    for name in filter(TEMPLATES.fullmatch, files):
        _fetch(repo, name, cache, endpoint, progress)
    for name in [WEIGHTS] if WEIGHTS in files else indexed_shards(snapshot / INDEX):
        _fetch(repo, name, cache, endpoint, progress)
    if found := resolve_in_hub_cache(repo, cache):
        return found
    raise DownloadError(f"{repo} must not change while it is fetched, and did; pull again")


def _check_endpoint(endpoint: str | None) -> None:
    from huggingface_hub import constants

    if not is_address(endpoint or constants.ENDPOINT):
        raise DownloadError(
            "the hub must have an address such as https://huggingface.co; got a malformed one; correct HF_ENDPOINT"
        )


def _check_files(repo: str, files: list[str]) -> None:
    missing = [name for name in (CONFIG, TOKENIZER) if name not in files]
    if INDEX not in files and WEIGHTS not in files:
        missing.append(f"{WEIGHTS} (weights in pickle files can run code and are never loaded)")
    if missing and ADAPTER_CONFIG in files:
        raise DownloadError(
            f"a model has weights of its own; {repo} is an adapter; download it into a directory, "
            "and give its model, with the directory as --adapter"
        )
    if missing:
        raise DownloadError(
            f"a repository must hold {CONFIG}, {TOKENIZER} and safetensors; {repo} lacks "
            f"{', '.join(missing)}; choose another"
        )


def _fetch(repo: str, name: str, cache: Path, endpoint: str | None, progress: OnProgress) -> Path:
    """One file into the cache; its path in the snapshot."""
    from huggingface_hub import hf_hub_download

    if name.endswith(".safetensors"):
        _fetch_blob(repo, name, cache, endpoint, progress)
    bar = bar_class(name, progress)
    return Path(hf_hub_download(repo, name, cache_dir=cache, endpoint=endpoint, tqdm_class=bar))


def _fetch_blob(
    repo: str, name: str, cache: Path, endpoint: str | None, progress: OnProgress
) -> None:
    """The bytes of a large file into its blob, from where the last attempt stopped."""
    from filelock import FileLock
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import repo_folder_name
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    url = hf_hub_url(repo, name, endpoint=endpoint)
    metadata = get_hf_file_metadata(url, endpoint=endpoint)
    etag, size = metadata.etag or "", metadata.size
    if size is None or not re.fullmatch(r"[0-9a-f]{40,64}", etag):
        return  # cannot be resumed or checked; hf_hub_download fetches it whole

    folder = repo_folder_name(repo_id=repo, repo_type="model")
    blob = cache / folder / "blobs" / etag
    partial = blob.with_name(f"{etag}.xplm-partial")
    lock = cache / ".locks" / folder / f"{etag}.lock"  # the one that the library takes
    blob.parent.mkdir(parents=True, exist_ok=True)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        if blob.exists():
            return
        download(url, partial, size, name, progress, build_hf_headers())
        if len(etag) == SHA256_DIGITS:
            keep(partial, blob, etag, f"{name} of {repo}")
        else:
            partial.replace(blob)


def fetch_hub_file(
    source: HubFile,
    target: Path,
    sha256: str,
    endpoint: str | None,
    progress: OnProgress,
) -> None:
    """Fetch one file of known content to a place outside the hub's cache.

    Args:
        source: the file.
        target: receives it; the bytes of an interrupted fetch stand beside it, in `<target>.partial`.
        sha256: of the file, hexadecimal.
        endpoint: the hub's address; None for the hub library's own.
        progress: called as bytes arrive.

    Raises:
        DownloadError: no network, no such file, or the hub's has another checksum.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    with explained(f"{source.name} of {source.repo}", "the hub"):
        _check_endpoint(endpoint)
        url = hf_hub_url(source.repo, source.name, revision=source.revision, endpoint=endpoint)
        metadata = get_hf_file_metadata(url, endpoint=endpoint)
        if metadata.etag != sha256 or metadata.size is None:
            raise DownloadError(
                f"{source.name} of {source.repo} must have SHA-256 {sha256}; the hub has {metadata.etag}"
            )
        partial = target.with_name(f"{target.name}.partial")
        download(url, partial, metadata.size, target.name, progress, build_hf_headers())
    keep(partial, target, sha256, f"{source.name} of {source.repo}")
