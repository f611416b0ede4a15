"""Low-rank adapters in PEFT's layout.

    adapter_config.json         which model they belong to, rank, alpha, and the modules that have one
    adapter_model.safetensors   "base_model.model." + module + ".lora_A.weight" and ".lora_B.weight"

Inside, B holds the factor that PEFT keeps beside it, alpha / rank (alpha / sqrt(rank) with use_rslora): it is
multiplied in on reading, and adapters are written with alpha = rank.

Where a family stores several matrices as one, as GPT-2 does q, k and v, an adapter there is one too:

    joined        A = [Aq; Ak; Av] (3R, C),  B = diag(Bq, Bk, Bv) (N, 3R)      so that B A = [Bq Aq; Bk Ak; Bv Av]
    taken apart   Aq = Ak = Av = A,  [Bq; Bk; Bv] = B
"""

import re
from collections.abc import Mapping, Sequence
from math import isfinite, sqrt
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from xplm.checkpoint.files import write_json
from xplm.checkpoint.layouts import TRANSPOSED, stored_tensors
from xplm.checkpoint.safetensors_file import SafetensorsFile, open_safetensors
from xplm.checkpoint.save import write_tensors
from xplm.checkpoint.untrusted import read_json_object
from xplm.config import DecoderConfig
from xplm.errors import CheckpointError
from xplm.models.decoder import param_specs
from xplm.precision import cast
from xplm.runtime import Runtime
from xplm.typing import Array, Params

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
A, B = ".lora_A.weight", ".lora_B.weight"
UNSUPPORTED = ("use_dora", "modules_to_save")

Halves: TypeAlias = tuple[np.ndarray, np.ndarray]
"""A (R, C) and B (N, R) of one matrix (N, C)."""


def write_adapter(
    path: Path, config: DecoderConfig, tensors: Mapping[str, np.ndarray], *, base: str
) -> None:
    """Write both files into a directory, and flush them to the disk.

    Args:
        path: the directory.
        config: the model's that the adapters belong to.
        tensors: float32, by our names: LAYER.lora_A.weight (R, C) and LAYER.lora_B.weight (N, R).
        base: name or path of that model.

    Raises:
        OSError: the disk refuses.
    """
    written: dict[str, np.ndarray] = {}
    ranks: dict[str, int] = {}
    for stored in stored_tensors(config):
        layers = [name.removesuffix(".weight") for name in stored.parameters]
        if layers[0] + A not in tensors:
            continue
        module = PREFIX + stored.name.removesuffix(".weight")
        a, b = _join([(tensors[layer + A], tensors[layer + B]) for layer in layers])
        written[module + A], written[module + B] = a, b
        ranks[module.rpartition(".")[2]] = a.shape[0]

    shapes = {name: x.shape for name, x in written.items()}
    write_tensors(path / WEIGHTS, shapes, lambda name, dtype: written[name], "float32")
    rank = min(ranks.values())
    others = {module: r for module, r in ranks.items() if r != rank}
    write_json(
        path / CONFIG,
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": rank,
            "lora_alpha": rank,
            "rank_pattern": others,
            "alpha_pattern": others,
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": config.model_type in TRANSPOSED,
            "target_modules": sorted(ranks),
            "inference_mode": True,
        },
    )


def read_adapter(path: Path, config: DecoderConfig) -> dict[str, np.ndarray]:
    """Read an adapter.

    Args:
        path: its directory.
        config: the model's that it is to be used with.

    Returns:
        Float32 tensors by our names, as `write_adapter` takes them.

    Raises:
        CheckpointError: a file is missing or malformed, the adapter is of a kind that xplm does not have, or it does
            not fit the model.
    """
    facts = read_json_object(path / CONFIG)
    used = [key for key in UNSUPPORTED if facts.get(key)]
    if facts.get("peft_type") != "LORA" or used:
        raise CheckpointError(
            f"an adapter is plain LoRA; {path / CONFIG} has peft_type {facts.get('peft_type')!r} "
            f"and {', '.join(used) or 'no other option'}; merge it with PEFT first"
        )
    file = open_safetensors(path / WEIGHTS)
    unused = set(file.tensors)
    specs = param_specs(config)
    tensors = {}
    for stored in stored_tensors(config):
        shapes = [specs[name].shape for name in stored.parameters]
        if not stored.name.endswith(".weight") or len(shapes[0]) != 2:
            continue
        module = PREFIX + stored.name.removesuffix(".weight")
        names = module + A, module + B
        if not unused.intersection(names):
            continue
        rank, factor = _rank_and_factor(path, facts, module)
        wanted = (rank, shapes[0][-1]), (sum(shape[0] for shape in shapes), rank)
        _check_shapes(file, names, wanted)
        unused.difference_update(names)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows shows in the logits
            a, b = (file.read(name).astype(np.float32) for name in names)
            b = b * np.float32(factor)
        parts = _take_apart((a, b), len(stored.parameters))
        for name, part in zip(stored.parameters, parts, strict=True):
            layer = name.removesuffix(".weight")
            tensors[layer + A], tensors[layer + B] = part
    if unused or not tensors:
        left = min(unused, default="no tensor at all")
        raise CheckpointError(
            f"an adapter must belong to its model; {path} holds {left}; give the model that it was trained on"
        )
    return tensors


def merge_adapter(rt: Runtime, params: Params, tensors: Mapping[str, np.ndarray]) -> Params:
    """W + B A in the place of every W that has an adapter, in W's dtype.

    Args:
        rt: backend of the parameters.
        params: the model's.
        tensors: as `read_adapter` returns them.
    """
    merged = dict(params)
    for name in tensors:
        if name.endswith(A):
            layer = name.removesuffix(A)
            weight = params[f"{layer}.weight"]
            delta = rt.backend.from_host(adapter_product(tensors, layer))
            merged[f"{layer}.weight"] = _add(weight, delta)
    return merged


def adapter_product(tensors: Mapping[str, np.ndarray], layer: str) -> np.ndarray:
    """B A (N, C) of one layer, float32."""
    return tensors[layer + B] @ tensors[layer + A]


def _add(weight: Array, delta: Array) -> Array:
    return cast(cast(weight, delta.dtype) + delta, weight.dtype)


def _join(parts: Sequence[Halves]) -> Halves:
    """The adapter of matrices that are stored as one, along their outputs."""
    first, *others = parts
    a, b = first
    for next_a, next_b in others:
        a = np.concatenate([a, next_a])
        above = np.pad(b, ((0, 0), (0, next_b.shape[1])))
        b = np.concatenate([above, np.pad(next_b, ((0, 0), (b.shape[1], 0)))])
    return a, b


def _take_apart(halves: Halves, n_parts: int) -> list[Halves]:
    """The adapters of the matrices that one stored matrix holds."""
    a, b = halves
    return [(a, part) for part in np.split(b, n_parts)]


def _rank_and_factor(path: Path, facts: Mapping[str, Any], module: str) -> tuple[int, float]:
    """A module's rank, and what its B A is multiplied by.

    Raises:
        CheckpointError: they are not numbers, or given by a pattern that is not a module's name.
    """
    rank = _of_module(path, facts, "rank_pattern", module, facts.get("r"))
    alpha = _of_module(path, facts, "alpha_pattern", module, facts.get("lora_alpha"))
    if type(rank) is not int or rank < 1 or type(alpha) not in (int, float) or not isfinite(alpha):
        raise CheckpointError(
            f"{path / CONFIG} must give r, from 1, and lora_alpha, a finite number; "
            f"got {rank!r} and {alpha!r}"
        )
    factor = alpha / (sqrt(rank) if facts.get("use_rslora") else rank)
    if abs(factor) > float(np.finfo(np.float32).max):
        raise CheckpointError(
            f"{path / CONFIG} must scale by what float32 can hold; lora_alpha {alpha!r} and r {rank!r} "
            f"scale by {factor:g}; download it again"
        )
    return rank, factor


def _of_module(path: Path, facts: Mapping[str, Any], key: str, module: str, default: Any) -> Any:
    """What a pattern says of a module; the first that names it, or the end of its name, holds."""
    pattern = facts.get(key) or {}
    if not isinstance(pattern, dict) or not all(re.fullmatch(r"[\w.]+", name) for name in pattern):
        raise CheckpointError(
            f"{key} must give numbers by the names of modules; {path / CONFIG} has {pattern!r:.80}; "
            "merge the adapter with PEFT first"
        )
    found = (value for name, value in pattern.items() if f".{module}".endswith(f".{name}"))
    return next(found, default)


def _check_shapes(
    file: SafetensorsFile, names: tuple[str, str], wanted: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    """Refuse an adapter whose halves do not fit its matrix.

    Raises:
        CheckpointError: one is missing, or has another shape.
    """
    found = tuple(file.tensors[name].shape if name in file.tensors else None for name in names)
    if found != wanted:
        raise CheckpointError(
            f"{names[0]} and its lora_B must have shapes {wanted[0]} and {wanted[1]}; {file.path} has "
            f"{found[0]} and {found[1]}; give the model that it was trained on"
        )
