"""Opening a Hugging Face directory: config.json, and safetensors in one file or many.

    config.json
    model.safetensors                       or, where it is missing,
    model.safetensors.index.json            {"weight_map": {tensor name: shard name}}
    model-00001-of-0000N.safetensors ...

Where files contradict each other, the choice is that of transformers, and a warning says it: model.safetensors comes
before an index, and of a tensor in several shards the last shard's is taken.

Of a model of text and pictures the text model is read (`xplm.models.families.wrappers`).

Weights in pickle files are never read: unpickling runs whatever the file says.
"""

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from xplm.checkpoint.checkpoint import FLOAT_KINDS, Checkpoint, TensorInfo, to_dtype
from xplm.checkpoint.layouts import unpack
from xplm.checkpoint.mxfp4 import join_blocks
from xplm.checkpoint.safetensors_file import BYTES, SafetensorsFile, open_safetensors
from xplm.checkpoint.untrusted import read_json_object
from xplm.errors import CheckpointError, ConfigError, visible
from xplm.models.families.config_json import read_config
from xplm.models.families.keys import quant_method
from xplm.models.families.wrappers import LM_HEAD, is_wrapped, text_config, text_names

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"  # of a directory that holds an adapter, and no model
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_LISTED = 5  # names in a message

_log = logging.getLogger(__name__)


def open_directory(path: Path) -> Checkpoint:
    """Open a Hugging Face directory. Reads its configuration and the headers of its shards.

    Args:
        path: the directory.

    Returns:
        The checkpoint; nothing of its weights is in memory yet.

    Raises:
        ConfigError: config.json is missing, malformed, or asks for what xplm does not have.
        CheckpointError: a shard is missing, truncated or malformed, or there are no safetensors.
    """
    hf = read_json_object(path / CONFIG, ConfigError)
    if (named := hf.get("transformers_weights")) is not None:
        raise ConfigError(
            f"weights must have the usual names in {path}; transformers_weights in its {CONFIG} is {named!r:.80}; "
            f"name that file {WEIGHTS}, or {INDEX}, and remove the key"
        )
    config = read_config(text_config(hf))
    tensors: dict[str, TensorInfo] = {}
    shard_of: dict[str, SafetensorsFile] = {}
    twice: dict[str, str] = {}
    for shard in shard_names(path):
        file = open_safetensors(path / shard)
        twice |= dict.fromkeys(sorted(tensors.keys() & file.tensors.keys()), shard)
        tensors |= {name: TensorInfo(t.shape, t.kind) for name, t in file.tensors.items()}
        shard_of |= dict.fromkeys(file.tensors, file)
    if twice:
        listed = ", ".join(f"{visible(name)} ({twice[name]})" for name in list(twice)[:MAX_LISTED])
        _log.warning(
            "%s: %d of the tensors are in several shards; the last is used, as transformers does: %s",
            path,
            len(twice),
            listed,
        )
    if os.path.isfile(path / WEIGHTS) and _is_stale(path / INDEX):
        _log.warning(
            "%s: %s is used, as transformers does, and not the shards of %s", path, WEIGHTS, INDEX
        )
    names = text_names(hf, tensors)
    if is_wrapped(hf) and LM_HEAD not in names:  # whatever text_config says of it
        config = replace(config, tie_word_embeddings=True)
    tensors = {name: tensors[stored] for name, stored in names.items()}
    read = partial(_read_tensor, shard_of, names)
    checkpoint = Checkpoint(path, config, tensors, FLOAT_KINDS, read)
    if quant_method(hf) == "mxfp4":
        checkpoint = join_blocks(checkpoint, partial(_read_bytes, shard_of, names))
    return unpack(checkpoint)


def _is_stale(index: Path) -> bool:
    """Whether there is an index that names other files than the one of weights beside it, or that cannot be read."""
    try:
        return os.path.isfile(index) and indexed_shards(index) != [WEIGHTS]
    except CheckpointError:
        return True


def shard_names(path: Path) -> list[str]:
    """List the files that hold a directory's weights.

    Args:
        path: the directory.

    Returns:
        Their names, all of which exist.

    Raises:
        CheckpointError: the index is malformed, a shard that it names is missing, or there are no safetensors.
    """
    if os.path.isfile(path / WEIGHTS):
        return [WEIGHTS]
    if os.path.isfile(path / INDEX):
        names = indexed_shards(path / INDEX)
        if missing := [name for name in names if not os.path.isfile(path / name)]:
            raise CheckpointError(
                f"every shard that {INDEX} names must be in {path}; missing: {', '.join(missing)}; "
                f"download them again"
            )
        return names

    found = sorted(
        file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in path.glob(pattern)
    )
    got = (
        f"it holds pickle ({found[0]}), which can run code and is never loaded" if found else "none"
    )
    raise CheckpointError(
        f"{path} must hold {WEIGHTS}, or {INDEX} and its shards; {got}; "
        f"fetch the model's safetensors files"
    )


def indexed_shards(index: Path) -> list[str]:
    """List the shards that an index names, whether they are there or not.

    Args:
        index: the model.safetensors.index.json.

    Returns:
        Their names, sorted; none leads out of the index's own directory.

    Raises:
        CheckpointError: the index is malformed.
    """
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f'{index} must map tensor names to shards under "weight_map"; download it again'
        )
    for shard in weight_map.values():
        plain = isinstance(shard, str) and re.fullmatch(r"\w[\w.-]*\.safetensors", shard, re.ASCII)
        if not plain:
            raise CheckpointError(
                f"{index} must name safetensors files beside it; got {shard!r}; download it again"
            )
    return sorted(set(weight_map.values()))


def _read_tensor(
    shard_of: Mapping[str, SafetensorsFile],
    names: Mapping[str, str],
    name: str,
    dtype: np.dtype[Any],
) -> np.ndarray:
    stored = names[name]
    return to_dtype(shard_of[stored].read(stored), dtype, stored)


def _read_bytes(
    shard_of: Mapping[str, SafetensorsFile], names: Mapping[str, str], name: str
) -> np.ndarray:
    return shard_of[names[name]].read(names[name], BYTES)
