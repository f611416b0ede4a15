"""Opening whatever a path points at."""

import os
from pathlib import Path

from xplm.checkpoint.checkpoint import Checkpoint
from xplm.checkpoint.huggingface import open_directory
from xplm.errors import CheckpointError


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a Hugging Face directory or a GGUF file.

    Args:
        path: the directory or the file.

    Returns:
        The checkpoint; nothing of its weights is in memory yet.

    Raises:
        CheckpointError: there is neither at the path, or it is malformed.
        ConfigError: the model is not one that xplm has.
    """
    if os.path.isdir(path):  # false, too, for what cannot be a path
        return open_directory(path)
    if path.suffix == ".gguf":
        from xplm.checkpoint.gguf import open_gguf  # the gguf package takes 50 ms to import

        return open_gguf(path)
    got = "a file of another kind" if os.path.exists(path) else "nothing"
    raise CheckpointError(
        f"a model is a Hugging Face directory or a .gguf file; {path} is {got}; "
        f"give the directory that holds config.json"
    )
