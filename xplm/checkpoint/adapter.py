"""Low-rank adapters in PEFT's layout.

    adapter_config.json         which model they belong to, rank, alpha, and the modules that have one
    adapter_model.safetensors   "base_model.model." + module + ".lora_A.weight" and ".lora_B.weight"

Inside, B holds the factor that PEFT keeps beside it, alpha / rank (alpha / sqrt(rank) with use_rslora): it is
multiplied in on reading, and adapters are written with alpha = rank.
"""

import re
from collections.abc import Mapping
from math import isfinite, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from xplm.checkpoint.files import one_line, read_json_object, write_json
from xplm.checkpoint.layouts import MODULES, TRANSPOSED, stored_name
from xplm.checkpoint.save import write_tensors
from xplm.config import DecoderConfig
from xplm.errors import CheckpointError, RequestError
from xplm.models.decoder import param_specs
from xplm.params import ParamSpec
from xplm.precision import cast
from xplm.runtime import Runtime
from xplm.typing import Array, Params

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
A, B = ".lora_A.weight", ".lora_B.weight"
UNSUPPORTED = ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "fan_in_fan_out")


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
    names = {PREFIX + _stored_name(name, config): name for name in tensors}
    shapes = {stored: tensors[name].shape for stored, name in names.items()}
    write_tensors(path / WEIGHTS, shapes, lambda stored, dtype: tensors[names[stored]], "float32")
    rank = next(x.shape[0] for name, x in tensors.items() if name.endswith(A))
    modules = {stored.removesuffix(A).rpartition(".")[2] for stored in names if stored.endswith(A)}
    write_json(
        path / CONFIG,
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": rank,
            "lora_alpha": rank,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": sorted(modules),
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
    rank: Any = facts.get("r")
    alpha: Any = facts.get("lora_alpha")
    if type(rank) is not int or rank < 1 or type(alpha) not in (int, float) or not isfinite(alpha):
        raise CheckpointError(
            f"{path / CONFIG} must give r, from 1, and lora_alpha, a finite number; "
            f"got {rank!r} and {alpha!r}"
        )
    factor = alpha / (sqrt(rank) if facts.get("use_rslora") else rank)

    stored = _read_tensors(path / WEIGHTS)
    tensors = {}
    for name, spec in param_specs(config).items():
        if not name.endswith(".weight") or len(spec.shape) != 2:
            continue
        layer = name.removesuffix(".weight")
        a, b = (stored.pop(PREFIX + _stored_name(layer + part, config), None) for part in (A, B))
        if a is None and b is None:
            continue
        tensors[layer + A], b = _check_shapes(path, spec, rank, a, b)
        tensors[layer + B] = b * np.float32(factor)
    if stored or not tensors:
        left = one_line(next(iter(stored), "no tensor at all"))
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


def check_has_adapters(config: DecoderConfig) -> None:
    """Refuse a family whose stored matrices are not one a projection.

    Raises:
        RequestError: it is GPT-2.
    """
    if config.model_type in TRANSPOSED:
        raise RequestError(
            f"an adapter needs a matrix for each projection; {config.model_type} stores q, k and v as one; "
            "train its weights instead"
        )


def _add(weight: Array, delta: Array) -> Array:
    return cast(cast(weight, delta.dtype) + delta, weight.dtype)


def _stored_name(name: str, config: DecoderConfig) -> str:
    """Our name of an adapter's tensor as the family has it: a module may be called otherwise there."""
    layer, part = re.fullmatch(r"(.+)(\.lora_[AB])\.weight", name).groups()  # type: ignore[union-attr]
    stored = stored_name(f"{layer}.weight", MODULES.get(config.model_type, {}))
    return f"{stored.removesuffix('.weight')}{part}.weight"


def _read_tensors(path: Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, framework="numpy") as file:
            return {
                name: file.get_tensor(name).astype(np.float32)
                for name in file.keys()  # noqa: SIM118 - not a dict
            }
    except (SafetensorError, OSError) as cause:
        raise CheckpointError(
            f"{path} must be a whole safetensors file; got: {one_line(str(cause))}"
        ) from cause


def _check_shapes(
    path: Path, spec: ParamSpec, rank: int, a: np.ndarray | None, b: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Both halves of one layer's adapter, once they fit its matrix."""
    outputs, inputs = spec.shape
    if a is None or b is None or (a.shape, b.shape) != ((rank, inputs), (outputs, rank)):
        found = [None if x is None else x.shape for x in (a, b)]
        raise CheckpointError(
            f"the adapter of {spec.name} must have shapes {(rank, inputs)} and {(outputs, rank)}; {path} has "
            f"{found[0]} and {found[1]}; give the model that it was trained on"
        )
    return a, b
