"""Models on this machine that have a name: a list of them, their size on disk, and removing one."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from xplm.checkpoint.download import require_hub_library
from xplm.checkpoint.files import remove
from xplm.checkpoint.hub import resolve_in_hub_cache
from xplm.checkpoint.named import NAMED, full_name
from xplm.checkpoint.pull import EMBEDDED, default_home
from xplm.errors import DownloadError, did_you_mean

if TYPE_CHECKING:
    from huggingface_hub import CachedRepoInfo

PACKAGE, HOME, HUB = "xplm itself", "xplm's home", "the hub's cache"


class PulledModel(NamedTuple):
    """A model that a name stands for."""

    name: str
    source: str  # PACKAGE, HOME or HUB
    n_bytes: int  # on disk, with what an interrupted fetch left
    path: Path
    is_whole: bool  # False: its fetch was interrupted
    is_link: bool = False  # the path is a link to a folder elsewhere
    stored_as: str | None = None  # what a named model's weights are quantised to


def list_models(home: Path | None, hub_cache: Path | None = None) -> list[PulledModel]:
    """Every model that a name stands for: those of the package, those in the home, those in the hub's cache.

    Args:
        home: where named models are kept; None for `default_home()`.
        hub_cache: where the hub's models are kept; None for the hub library's own place.

    Raises:
        DownloadError: there is no home directory, or the hub's cache cannot be read.
    """
    models = [PulledModel(n, PACKAGE, _size(path), path, True) for n, path in EMBEDDED.items()]
    folder = (home or default_home()) / "models"
    for name, model in NAMED.items():
        path = folder / model.folder
        if n_bytes := _size(path):
            is_whole, is_link = (path / model.file).exists(), path.is_symlink()
            models.append(
                PulledModel(name, HOME, n_bytes, path, is_whole, is_link, model.stored_as)
            )
    for repo in _hub_repositories(hub_cache):
        path = repo.repo_path
        is_whole = resolve_in_hub_cache(repo.repo_id, hub_cache) is not None
        models.append(
            PulledModel(repo.repo_id, HUB, _size(path), path, is_whole, path.is_symlink())
        )
    return models


def remove_model(name: str, home: Path | None, hub_cache: Path | None = None) -> PulledModel:
    """Remove a model from the disk; of one that is a link to a folder elsewhere, the link alone.

    Args:
        name: as `list_models` has it, or an alias.
        home: where named models are kept; None for `default_home()`.
        hub_cache: where the hub's models are kept; None for the hub library's own place.

    Returns:
        The model that was removed.

    Raises:
        DownloadError: there is no such model, it is part of xplm, or the disk refuses.
    """
    name = full_name(name)
    models = {model.name: model for model in list_models(home, hub_cache)}
    removable = [n for n, model in models.items() if model.source != PACKAGE]
    if name not in removable:
        there = ", ".join(removable) or "none"
        raise DownloadError(
            f'a model to remove is one that was pulled: {there}; got "{name}"{did_you_mean(name, removable)}'
        )
    try:
        remove(models[name].path)
    except OSError as cause:
        raise DownloadError(
            f"{models[name].path} could not be removed: {cause.strerror or cause}; remove it by hand"
        ) from cause
    return models[name]


def _hub_repositories(cache: Path | None) -> list["CachedRepoInfo"]:
    require_hub_library()
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir(cache).repos
    except CacheNotFound:
        return []
    except (OSError, ValueError) as cause:  # ValueError: it is a file
        said = cause.strerror if isinstance(cause, OSError) and cause.strerror else cause
        raise DownloadError(
            f"the hub's cache must be a readable directory; got: {said}; correct HF_HOME or HF_HUB_CACHE"
        ) from cause
    models = (repo for repo in repositories if repo.repo_type == "model")
    return sorted(models, key=lambda repo: repo.repo_id)


def _size(path: Path) -> int:
    """Bytes of the files below a directory, links not counted."""
    files = (path for path in path.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(file.stat().st_size for file in files)
