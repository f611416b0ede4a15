"""Opening whatever a path points at."""

import logging
import os
from pathlib import Path
from shlex import quote

from xplm.checkpoint.checkpoint import Checkpoint
from xplm.checkpoint.huggingface import (
    ADAPTER_CONFIG,
    INDEX,
    WEIGHTS,
    open_directory,
)
from xplm.checkpoint.untrusted import open_regular, read_json_object
from xplm.errors import CheckpointError

GGUF_MAGIC = b"GGUF"

_log = logging.getLogger(__name__)


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a Hugging Face directory, or a GGUF file, which its first bytes show whatever its name.

    Args:
        path: the directory or the file.

    Returns:
        The checkpoint; nothing of its weights is in memory yet.

    Raises:
        CheckpointError: there is neither at the path, or it is malformed or an adapter.
        ConfigError: the model is not one that xplm has.
    """
    if os.path.isdir(path):  # false, too, for what cannot be a path
        _refuse_adapter(path)
        files = sorted(file.name for file in path.glob("*.gguf"))
        if files and not _has_weights(path):
            raise CheckpointError(
                f"a model is one GGUF file, or a directory that holds {WEIGHTS}; {path} is a directory of GGUF files; "
                f"give one of them, such as {files[0]}"
            )
        return open_directory(path)
    if path.suffix.lower() == ".gguf" or (os.path.exists(path) and _is_gguf(path)):
        from xplm.checkpoint.gguf import open_gguf  # the gguf package takes 50 ms to import

        return open_gguf(path)
    got = "a file of another kind" if os.path.exists(path) else "nothing"
    raise CheckpointError(
        f"a model is a Hugging Face directory or a GGUF file; {path} is {got}; "
        f"give the directory that holds config.json"
    )


def _refuse_adapter(path: Path) -> None:
    """Refuse a directory that holds an adapter and no weights of a model; warn of one that holds both.

    Raises:
        CheckpointError: it does.
    """
    if not os.path.isfile(path / ADAPTER_CONFIG):
        return
    if _has_weights(path):
        _log.warning(
            "%s holds an adapter beside its weights; it is merged in only where it is given too, with --adapter, "
            "or adapter= in Python",
            path,
        )
        return
    named = read_json_object(path / ADAPTER_CONFIG).get("base_model_name_or_path")
    base = named if isinstance(named, str) and named else "MODEL"
    raise CheckpointError(
        f"a model has weights of its own; {path} is an adapter for {base}; give both: "
        f"--model {quote(base)} --adapter {quote(str(path))}, or in Python load({base!r}, adapter={str(path)!r})"
    )


def _has_weights(directory: Path) -> bool:
    return any(os.path.isfile(directory / name) for name in (WEIGHTS, INDEX))


def _is_gguf(path: Path) -> bool:
    """Whether a file begins as a GGUF file does.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        with open_regular(path) as file:
            return file.read(len(GGUF_MAGIC)) == GGUF_MAGIC
    except OSError as cause:
        raise CheckpointError(f"{path} must be readable; got: {cause.strerror}") from cause
