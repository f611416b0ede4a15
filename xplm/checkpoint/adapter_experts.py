"""Adapters of experts, in an adapter's file; inside, A (E, R, C) and B (E, N, R) of a stack (E, N, C).

    one by one    a pair for each expert's matrix, as of Mixtral's w1, w2 and w3: PEFT under transformers 4; an expert
                  that has none gets 0
    stacked       a pair for all experts' gate_up_proj and one for their down_proj, which target_parameters names:
                  A (E R, C), an expert's rows together, and B (N, R E), an expert's columns E apart

Both stacked pairs belong to one module, and PEFT wraps it twice: down_proj's names are the module's, those of
gate_up_proj have ".base_layer" after it where both have a pair. Its rows are in the order that the family stores gate
and up in.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from xplm.checkpoint.adapter_config import AdapterConfig
from xplm.checkpoint.adapter_tensors import (
    PREFIX,
    A,
    B,
    Halves,
    check_shapes,
    join_halves,
    read_halves,
    scaled_halves,
    split_halves,
)
from xplm.checkpoint.layouts import Stored
from xplm.checkpoint.safetensors_file import SafetensorsFile
from xplm.config import DecoderConfig
from xplm.models.decoder import param_specs
from xplm.models.families.table import FAMILIES
from xplm.specs import ExpertsSpec

PARAMETERS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
"""transformers' stacked parameters, in the order in which PEFT wraps them, and ours."""
EXPERT_PARTS = {part for parts in PARAMETERS.values() for part in parts}
"""Names that PEFT takes for experts' among target_modules where a model has experts: such a matrix of another MLP is
one of the target_parameters."""


def expert_modules(config: DecoderConfig) -> Iterator[tuple[str, str]]:
    """transformers' module of each layer's experts, and ours."""
    module = FAMILIES[config.model_type].experts_module
    for number, block in enumerate(config.blocks):
        if isinstance(block.mlp, ExpertsSpec):
            layer = f"model.layers.{number}"
            yield f"{layer}.{module}", f"{layer}.mlp.experts"


def read_stacked(
    file: SafetensorsFile,
    facts: AdapterConfig,
    config: DecoderConfig,
    layout: Sequence[Stored],
    unused: set[str],
) -> dict[str, np.ndarray]:
    """The pairs of stacked parameters, by our names.

    Args:
        file: of the adapter.
        facts: its configuration.
        config: the model's.
        layout: how its parameters are stored.
        unused: names of the file's tensors; those that are read are taken out.

    Raises:
        CheckpointError: one is missing or does not fit.
    """
    specs = param_specs(config)
    groups = {name: stored.layout.groups for stored in layout for name in stored.parameters}
    tensors: dict[str, np.ndarray] = {}
    for module, ours in expert_modules(config):
        targets = [name for name in PARAMETERS if facts.is_target_parameter(f"{module}.{name}")]
        wrapped = PREFIX + module
        for target in reversed(targets):  # from the outermost
            parameters = [f"{ours}.{part}" for part in PARAMETERS[target]]
            shapes = [specs[f"{name}.weight"].shape for name in parameters]
            E, heights, C = shapes[0][0], [shape[1] for shape in shapes], shapes[0][2]

            names = wrapped + A, wrapped + B
            rank, factor = facts.rank_and_factor(f"{module}.{target}")
            check_shapes(file, names, ((E * rank, C), (sum(heights), rank * E)))
            halves = stack(scaled_halves(file, names, factor), E)
            parts = split_halves(halves, heights, groups[f"{parameters[0]}.weight"])
            for name, (a, b) in zip(parameters, parts, strict=True):
                tensors[name + A], tensors[name + B] = a, b
            unused.difference_update(names)
            wrapped += ".base_layer"
    return tensors


def join_stacked(
    config: DecoderConfig, tensors: Mapping[str, np.ndarray], layout: Sequence[Stored]
) -> Iterator[tuple[str, str, int, Halves]]:
    """The opposite: of each stacked parameter transformers' name, the module in the file, its rank, and A and B there.

    Args:
        config: the model's.
        tensors: the adapter's, by our names.
        layout: how the model's parameters are stored.
    """
    groups = {name: stored.layout.groups for stored in layout for name in stored.parameters}
    for module, ours in expert_modules(config):
        wrapped = module
        for target in reversed(PARAMETERS):
            layers = [f"{ours}.{part}" for part in PARAMETERS[target]]
            if layers[0] + A not in tensors:
                continue
            halves = [(tensors[layer + A], tensors[layer + B]) for layer in layers]
            a, b = join_halves(halves, groups[f"{layers[0]}.weight"])
            flat = a.reshape(-1, a.shape[2]), b.transpose(1, 2, 0).reshape(b.shape[1], -1)
            yield target, wrapped, a.shape[1], flat
            wrapped += ".base_layer"


def stack(halves: Halves, n_experts: int) -> Halves:
    """A (E, R, C) and B (E, N, R), from A (E R, C) and B (N, R E)."""
    a, b = halves
    stacked = b.reshape(b.shape[0], -1, n_experts).transpose(2, 0, 1)
    return a.reshape(n_experts, -1, a.shape[1]), np.ascontiguousarray(stacked)


def read_numbered(
    file: SafetensorsFile,
    facts: AdapterConfig,
    stored: Stored,
    shape: tuple[int, ...],
    unused: set[str],
) -> dict[str, np.ndarray]:
    """Adapters of matrices that are stored one by one, stacked: 0 for those without.

    Returns:
        A (E, R, C) and B (E, N, R) of a parameter (E, N, C), R the largest rank; nothing where no matrix has one.

    Raises:
        CheckpointError: one does not fit.
    """
    E, N, C = shape
    read: dict[int, Halves] = {}
    for number in range(E):
        module = stored.name.removesuffix(".weight").replace("{}", str(number))
        names = PREFIX + module + A, PREFIX + module + B
        if unused.intersection(names):
            read[number] = read_halves(file, facts, module, names, (N, C))
            unused.difference_update(names)
    if not read:
        return {}
    rank = max(len(a) for a, _ in read.values())
    stacked_a, stacked_b = np.zeros((E, rank, C), np.float32), np.zeros((E, N, rank), np.float32)
    for number, (a, b) in read.items():
        stacked_a[number, : len(a)], stacked_b[number, :, : len(a)] = a, b
    layer = stored.parameters[0].removesuffix(".weight")
    return {layer + A: stacked_a, layer + B: stacked_b}
