"""Low-rank adapters in PEFT's layout.

    adapter_config.json         which model they belong to, rank, alpha, and the modules that have one
    adapter_model.safetensors   "base_model.model." + module + ".lora_A.weight" and ".lora_B.weight"
                                of an embedding ".lora_embedding_A" (R, V) and ".lora_embedding_B" (C, R), transposed
                                of both tables also ".base_layer.weight" or ".weight", which takes the model's place; of
                                the head its bias, likewise

Inside, B holds the factor that PEFT keeps beside it, alpha / rank (alpha / sqrt(rank) with use_rslora): it is
multiplied in on reading, and adapters are written with alpha = rank.

Where a family stores several matrices as one, as GPT-2 does q, k and v, an adapter there is one too
(`adapter_tensors.py`). Those of experts are in `adapter_experts.py`.

An adapter of one of two tied tables unties them: the other stays as it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from xplm.checkpoint.adapter_config import AdapterConfig, is_end, read_adapter_config
from xplm.checkpoint.adapter_experts import (
    EXPERT_PARTS,
    PARAMETERS,
    expert_modules,
    join_stacked,
    read_numbered,
    read_stacked,
)
from xplm.checkpoint.adapter_tensors import (
    PREFIX,
    A,
    B,
    check_shapes,
    join_halves,
    read_halves,
    split_halves,
)
from xplm.checkpoint.files import write_json
from xplm.checkpoint.huggingface import ADAPTER_CONFIG
from xplm.checkpoint.layouts import Stored, stored_module, stored_tensors
from xplm.checkpoint.safetensors_file import SafetensorsFile, open_safetensors
from xplm.checkpoint.save import write_tensors
from xplm.config import DecoderConfig
from xplm.errors import CheckpointError
from xplm.layers.linear import read_linear
from xplm.models.decoder import EMBEDDING, HEAD_BIAS, LM_HEAD, embedding_weight, param_specs
from xplm.models.families.table import FAMILIES
from xplm.precision import cast
from xplm.runtime import Runtime
from xplm.typing import Array, Params

CONFIG = ADAPTER_CONFIG
WEIGHTS = "adapter_model.safetensors"
PICKLE = "adapter_model.bin"  # of older versions of PEFT
EMBEDDING_A, EMBEDDING_B = ".lora_embedding_A", ".lora_embedding_B"
TRAINING_ONLY = ".lora_velora_embed"  # what VeLoRA's backward pass projects onto


def write_adapter(
    path: Path, config: DecoderConfig, tensors: Mapping[str, np.ndarray], *, base: str
) -> None:
    """Write both files into a directory, and flush them to the disk.

    Args:
        path: the directory.
        config: the model's that the adapters belong to.
        tensors: float32, by our names: LAYER.lora_A.weight (R, C) and LAYER.lora_B.weight (N, R), of
            experts (E, R, C) and (E, N, R).
        base: name or path of that model.

    Raises:
        OSError: the disk refuses.
    """
    written: dict[str, np.ndarray] = {}
    ranks: dict[str, int] = {}
    is_transposed = False
    modules, parameters = set[str](), set[str]()
    layout, specs = stored_tensors(config), param_specs(config)
    for target, module, rank, (a, b) in join_stacked(config, tensors, layout):
        written[PREFIX + module + A], written[PREFIX + module + B] = a, b
        ranks[target] = rank
        parameters.add(f"experts.{target}")
    has_experts = bool(parameters)
    for stored in layout:
        if not specs[stored.parameters[0]].is_hidden_matrix:
            continue
        layers = [name.removesuffix(".weight") for name in stored.parameters]
        if layers[0] + A not in tensors:
            continue
        module = PREFIX + stored.name.removesuffix(".weight")
        halves = [(tensors[layer + A], tensors[layer + B]) for layer in layers]
        a, b = join_halves(halves, stored.layout.groups)
        is_transposed |= stored.is_transposed
        written[module + A], written[module + B] = a, b
        last = module.rpartition(".")[2]
        ranks[last] = a.shape[0]
        is_parameter = has_experts and last in EXPERT_PARTS
        (parameters if is_parameter else modules).add(last + ".weight" * is_parameter)

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
            "fan_in_fan_out": is_transposed,
            "target_modules": sorted(modules),
            "target_parameters": sorted(parameters),
            "inference_mode": True,
        },
    )


def read_adapter(path: Path, config: DecoderConfig) -> dict[str, np.ndarray]:
    """Read an adapter.

    Args:
        path: its directory.
        config: the model's that it is to be used with.

    Returns:
        Float32 tensors by our names, as `write_adapter` takes them, and whole tables where the file stores them.

    Raises:
        CheckpointError: a file is missing or malformed, the adapter is of a kind that xplm does not have, or it does
            not fit the model.
    """
    facts = read_adapter_config(path / CONFIG)
    if (path / PICKLE).is_file() and not (path / WEIGHTS).is_file():
        raise CheckpointError(
            f"an adapter must be stored in {WEIGHTS}; {path} holds {PICKLE}, which can run code and is never loaded; "
            "save it with PEFT's safe_serialization"
        )
    file = open_safetensors(path / WEIGHTS)
    unused = {name for name in file.tensors if not name.endswith(TRAINING_ONLY)}
    specs = param_specs(config)
    tensors = _read_tables(file, facts, config, unused)
    layout = stored_tensors(config)
    _check_parameters(facts, config, layout)
    tensors |= read_stacked(file, facts, config, layout, unused)
    for stored in layout:
        shapes = [specs[name].shape for name in stored.parameters]
        if stored.is_numbered and len(shapes[0]) == 3:
            tensors |= read_numbered(file, facts, stored, shapes[0], unused)
        if not specs[stored.parameters[0]].is_hidden_matrix:
            continue
        module = stored.name.removesuffix(".weight")
        names = PREFIX + module + A, PREFIX + module + B
        if not unused.intersection(names):
            continue
        wide = sum(shape[0] for shape in shapes), shapes[0][-1]
        halves = read_halves(file, facts, module, names, wide)
        unused.difference_update(names)
        parts = split_halves(halves, [shape[0] for shape in shapes], stored.layout.groups)
        for name, part in zip(stored.parameters, parts, strict=True):
            layer = name.removesuffix(".weight")
            tensors[layer + A], tensors[layer + B] = part
    if biases := sorted(name for name in unused if name.endswith(".bias")):
        raise CheckpointError(
            f"an adapter must be plain LoRA; {path} has biases that were trained, such as {biases[0]}; "
            "merge it with PEFT first"
        )
    if unused or not any(name.endswith(A) for name in tensors):
        left = min(unused, default="no tensor at all")
        raise CheckpointError(
            f"an adapter must belong to its model; {path} holds {left}; give the model that it was trained on, "
            "or merge it with PEFT first"
        )
    return tensors


def _check_parameters(
    facts: AdapterConfig, config: DecoderConfig, layout: Sequence[Stored]
) -> None:
    """Refuse target_parameters that are neither stacked experts' nor a block's matrix.

    Raises:
        CheckpointError: one is not.
    """
    specs = param_specs(config)
    known = [s.name for s in layout if specs[s.parameters[0]].is_hidden_matrix]
    known += [f"{module}.{name}" for module, _ in expert_modules(config) for name in PARAMETERS]
    for target in facts.parameters:
        if not any(is_end(target, name) for name in known):
            raise CheckpointError(
                f"target_parameters must name experts' {' and '.join(PARAMETERS)}, or matrices of blocks; "
                f"{facts.path} has {target!r:.80}; give the model that it was trained on, or merge it with PEFT first"
            )


def adapted_config(config: DecoderConfig, tensors: Mapping[str, np.ndarray]) -> DecoderConfig:
    """A model's configuration with an adapter merged in: its tables are no longer tied where one alone has one.

    Args:
        config: the model's.
        tensors: as `read_adapter` returns them.
    """
    is_tied = config.tie_word_embeddings and not _adapts_tables(tensors)
    return replace(config, tie_word_embeddings=is_tied)


def _adapts_tables(tensors: Mapping[str, np.ndarray]) -> bool:
    return any(table.removesuffix(".weight") + A in tensors for table in (EMBEDDING, LM_HEAD))


def _read_tables(
    file: SafetensorsFile, facts: AdapterConfig, config: DecoderConfig, unused: set[str]
) -> dict[str, np.ndarray]:
    """Adapters of the embedding and the head, and what the file stores in place of these tables and of the head's bias.

    Raises:
        CheckpointError: one does not fit, or two that are tied differ.
    """
    shape = config.vocab_size, config.hidden_size
    tensors: dict[str, np.ndarray] = {}
    for table, first, second in ((EMBEDDING, EMBEDDING_A, EMBEDDING_B), (LM_HEAD, A, B)):
        layer = table.removesuffix(".weight")
        stored = stored_module(table, FAMILIES[config.model_type].modules)[0].name
        # Transformers 5 calls every head lm_head, whatever its file calls it.
        is_ours = any(name.startswith(f"{PREFIX}{layer}.") for name in unused)
        module = layer if is_ours else stored
        own: dict[str, tuple[int, ...]] = {table: shape}
        if table == LM_HEAD and config.head_bias:
            own[HEAD_BIAS] = shape[:1]
        for ours, wanted in own.items():
            part = ours.removeprefix(f"{layer}.")
            for name in (f"{PREFIX}{module}.base_layer.{part}", f"{PREFIX}{module}.{part}"):
                if name in unused:
                    check_shapes(file, (name,), (wanted,))
                    unused.discard(name)
                    tensors[ours] = file.read(name).astype(np.float32)
        names = PREFIX + module + first, PREFIX + module + second
        if unused.intersection(names):
            is_transposed = table == EMBEDDING
            stored_shape = shape[::-1] if is_transposed else shape
            a, b = read_halves(file, facts, module, names, stored_shape)
            tensors[layer + A], tensors[layer + B] = (b.T, a.T) if is_transposed else (a, b)
            unused.difference_update(names)

    if not config.tie_word_embeddings:
        return tensors
    given = [tensors.pop(table) for table in (EMBEDDING, LM_HEAD) if table in tensors]
    if len(given) == 2 and not np.array_equal(given[0], given[1]):
        raise CheckpointError(
            f"tied embeddings must be one matrix; {file.path} stores two that differ; "
            "merge the adapter with PEFT first"
        )
    if given:
        after = param_specs(adapted_config(config, tensors))
        tensors |= {table: given[0] for table in (EMBEDDING, LM_HEAD) if table in after}
    return tensors


def merge_adapter(rt: Runtime, params: Params, tensors: Mapping[str, np.ndarray]) -> Params:
    """W + B A in the place of every W that has an adapter, in W's dtype.

    Args:
        rt: backend of the parameters.
        params: the model's.
        tensors: as `read_adapter` returns them.
    """
    merged = dict(params)
    layers = [name.removesuffix(A) for name in tensors if name.endswith(A)]
    if LM_HEAD not in params and _adapts_tables(tensors):
        merged[LM_HEAD] = embedding_weight(params)
    for name in (EMBEDDING, LM_HEAD, HEAD_BIAS):
        if name in tensors:
            merged[name] = cast(rt.backend.from_host(tensors[name]), merged[name].dtype)
    for layer in layers:
        weight = read_linear(merged, layer).weight
        delta = rt.backend.from_host(adapter_product(tensors, layer))
        merged[f"{layer}.weight"] = _add(weight, delta)
    return merged


def adapter_product(tensors: Mapping[str, np.ndarray], layer: str) -> np.ndarray:
    """B A (N, C) of one layer, or (E, N, C) of experts, float32."""
    return tensors[layer + B] @ tensors[layer + A]


def _add(weight: Array, delta: Array) -> Array:
    return cast(cast(weight, delta.dtype) + delta, weight.dtype)
