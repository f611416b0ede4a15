"""Converting a model to a Hugging Face directory in another dtype."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from xplm.checkpoint.adapter import adapted_config, adapter_product, read_adapter
from xplm.checkpoint.adapter_tensors import A
from xplm.checkpoint.checkpoint import Checkpoint, to_dtype
from xplm.checkpoint.files import copy_file
from xplm.checkpoint.load import check_layers, check_tied, match_names
from xplm.checkpoint.opening import open_checkpoint
from xplm.checkpoint.sampling import add_sampling, read_sampling
from xplm.checkpoint.save import MODEL_DTYPES, SHARD_BYTES, save_directory
from xplm.errors import RequestError, did_you_mean
from xplm.models.decoder import EMBEDDING, param_specs
from xplm.precision import SHORT_NAMES
from xplm.text.template_files import TEMPLATE_FOLDER, template_files
from xplm.text.tokenizer import Tokenizer

TEXT_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
)


def convert(
    source: Path,
    destination: Path,
    dtype: str,
    *,
    adapter: Path | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Checkpoint:
    """Write a model as a Hugging Face directory: configuration, weights and tokenizer.

    Quantised weights become the numbers that they decode to.

    Args:
        source: a Hugging Face directory or a GGUF file.
        destination: the directory to make; it must not exist, or be empty.
        dtype: "fp32", "fp16" or "bf16", or the long name of one.
        adapter: a directory in PEFT's layout, whose low-rank adapters are merged into the weights.
        shard_bytes: the largest shard of the weights, unless one tensor is larger.

    Returns:
        The source, opened.

    Raises:
        RequestError: the dtype is not one of these, or the destination names a GGUF file.
        CheckpointError: the source is malformed, or the destination cannot be written.
        ConfigError: the model is not one that xplm has.
        TokenizerError: a GGUF file's tokenizer cannot be rebuilt.
    """
    name = check_target(destination, dtype)
    checkpoint = open_checkpoint(source)
    check_layers(checkpoint)
    specs = param_specs(checkpoint.config)
    stored = match_names(checkpoint, specs)
    check_tied(checkpoint, specs)
    adapters = read_adapter(adapter, checkpoint.config) if adapter else {}

    def read(name: str, dtype: np.dtype[Any]) -> np.ndarray:
        layer = name.removesuffix(".weight")
        source = stored.get(name, stored[EMBEDDING])  # of a head that the adapter unties
        if layer + A not in adapters and name not in adapters:
            return checkpoint.read(source, dtype)
        weight = adapters.get(name)
        if weight is None:
            weight = checkpoint.read(source, np.dtype(np.float32))
        if layer + A in adapters:
            weight = weight + adapter_product(adapters, layer)
        return to_dtype(weight, dtype, name)

    def write_tokenizer(directory: Path) -> None:
        _write_tokenizer(checkpoint, directory)

    config = adapted_config(checkpoint.config, adapters)
    shapes = {name: spec.shape for name, spec in param_specs(config).items()}
    save_directory(
        destination,
        config,
        shapes,
        read,
        name,
        write_tokenizer,
        shard_bytes=shard_bytes,
    )
    return checkpoint


def check_target(destination: Path, dtype: str) -> str:
    """Refuse what no checkpoint is written as.

    Args:
        destination: as `convert` takes it.
        dtype: as `convert` takes it.

    Returns:
        The dtype's long name.

    Raises:
        RequestError: the dtype is not one of a checkpoint's, or the destination names a GGUF file.
    """
    if destination.suffix.lower() == ".gguf":
        raise RequestError(
            f"a model is written as a Hugging Face directory; got {destination}, and xplm writes no GGUF files yet; "
            f"give a directory's name, such as {destination.stem or 'model'}"
        )
    name = SHORT_NAMES.get(dtype, dtype)
    if name not in MODEL_DTYPES:
        hint = did_you_mean(dtype, ("fp32", "fp16", "bf16", *MODEL_DTYPES))
        raise RequestError(f'a checkpoint is written in fp32, fp16 or bf16; got "{dtype}"{hint}')
    return name


def _write_tokenizer(checkpoint: Checkpoint, directory: Path) -> None:
    """A directory's files as they are; a GGUF file's tokenizer, rebuilt."""
    if checkpoint.gguf_metadata is None:
        for name in TEXT_FILES:
            if os.path.lexists(checkpoint.path / name):
                copy_file(checkpoint.path / name, directory / name)
        for path in template_files(checkpoint.path):
            (directory / TEMPLATE_FOLDER).mkdir(exist_ok=True)
            copy_file(path, directory / TEMPLATE_FOLDER / path.name)
        return

    Tokenizer.from_gguf(checkpoint.gguf_metadata).save(directory)
    add_sampling(directory, read_sampling(checkpoint))
