"""adapter_config.json: an adapter's rank and alpha by module, and the kinds of adapter that xplm does not have.

A field of PEFT's LoraConfig is one of three kinds.

    read        rank and alpha, their patterns, which modules have an adapter, how it was begun
    INERT       changes no product B A once it is trained
    KINDS       makes the adapter another kind than W + B A; refused unless it is empty

Any other field is refused unless it is empty. A module's name is matched as PEFT matches it: the first pattern
that is the name, or its end after a dot, as a regular expression.

Source: Mangrulkar et al., PEFT 0.21, LoraConfig.
"""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from math import comb, isfinite, prod, sqrt
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from xplm.checkpoint.untrusted import read_json_object
from xplm.errors import CheckpointError

READ = (
    "peft_type",
    "task_type",
    "r",
    "lora_alpha",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "target_parameters",
    "init_lora_weights",
)
INERT = (
    "auto_mapping",
    "base_model_name_or_path",
    "revision",
    "peft_version",
    "inference_mode",
    "lora_dropout",
    "fan_in_fan_out",  # the layout of a family's matrices is the family's
    "bias",  # biases that were trained are tensors of the file
    "layers_pattern",  # names what the one list of layers is called
    "megatron_core",
    "qalora_group_size",
    "runtime_config",
    "loftq_config",  # read with init_lora_weights alone, as the next three
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "velora_config",  # changes the backward pass alone
)
KINDS = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "lora_bias": "LoRA with a bias",
    "alora_invocation_tokens": "aLoRA, which is active after its invocation alone",
    "arrow_config": "Arrow, a router of adapters",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "layer_replication": "LoRA on repeated layers",
    "megatron_config": "LoRA on Megatron's layers",
    "modules_to_save": "LoRA with modules that were trained whole",
    "trainable_token_indices": "LoRA with trainable tokens",
    "ensure_weight_tying": "LoRA on tied weights",
}
PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica")
MUTATING_INITS = {
    "pissa": "PiSSA",
    "olora": "OLoRA",
    "corda": "CorDA",
    "lora_ga": "LoRA-GA",
    "loftq": "LoftQ",
}
"""Ways to begin that take part of the model's own weights away, by how their names start."""

LAYER = re.compile(r"\.(\d+)\.")
"""A layer's number in a module's name."""

NAME_CHARS = 48  # of the longest name of a module
MAX_EXPRESSION_CHARS = 1000
MAX_STEPS = 2 * 10**7  # bound of what matching all patterns of a file with one name takes


Rule: TypeAlias = tuple[re.Pattern[str], Any]
"""Names of modules, and what holds for them."""


@dataclass(frozen=True)
class AdapterConfig:
    """What an adapter_config.json says."""

    path: Path  # the file
    facts: Mapping[str, Any]  # its fields
    ranks: list[Rule]
    alphas: list[Rule]
    targets: list[re.Pattern[str]] | None  # None: every module
    excluded: list[re.Pattern[str]]
    layers: list[int] | None  # numbers of the layers that have an adapter; None: all
    parameters: list[str]  # ends of the names of parameters that have one, in every layer

    def rank_and_factor(self, module: str) -> tuple[int, float]:
        """A module's rank, and what its B A is multiplied by.

        Raises:
            CheckpointError: they are not numbers, or float32 cannot hold the factor.
        """
        rank = _first_match(self.ranks, module, self.facts.get("r"))
        alpha = _first_match(self.alphas, module, self.facts.get("lora_alpha"))
        is_number = type(alpha) in (int, float) and isfinite(alpha)
        if type(rank) is not int or rank < 1 or not is_number:
            raise CheckpointError(
                f"{self.path} must give r, from 1, and lora_alpha, a finite number; "
                f"got {rank!r} and {alpha!r}"
            )
        factor = alpha / (sqrt(rank) if self.facts.get("use_rslora") else rank)
        if abs(factor) > float(np.finfo(np.float32).max):
            raise CheckpointError(
                f"{self.path} must scale by what float32 can hold; lora_alpha {alpha!r} and r {rank!r} "
                f"scale by {factor:g}; download it again"
            )
        return rank, factor

    def is_target(self, module: str) -> bool:
        """Whether PEFT puts an adapter there."""
        if any(name.match(module) for name in self.excluded):
            return False
        if self.layers is not None:
            layer = LAYER.search(module)
            if layer is None or int(layer[1]) not in self.layers:
                return False
        return self.targets is None or any(target.match(module) for target in self.targets)

    def is_target_parameter(self, name: str) -> bool:
        """Whether PEFT puts an adapter on this parameter itself."""
        return any(is_end(target, name) for target in self.parameters)


def is_end(target: str, name: str) -> bool:
    """Whether a target is the name of a parameter, or its end after a dot."""
    return f".{name}".endswith(f".{target}")


def read_adapter_config(path: Path) -> AdapterConfig:
    """Read the file, and refuse adapters that are not W + B A.

    Args:
        path: the adapter_config.json.

    Raises:
        CheckpointError: it is missing or malformed, or the adapter is of a kind that xplm does not have.
    """
    facts = read_json_object(path)
    _require_plain(path, facts)
    ranks, alphas = (_read_rules(path, facts, key) for key in ("rank_pattern", "alpha_pattern"))
    targets, excluded = (
        _read_names(path, facts, key) for key in ("target_modules", "exclude_modules")
    )
    layers, parameters = _read_layers(path, facts), _read_parameters(path, facts)
    return AdapterConfig(path, facts, ranks, alphas, targets, excluded or [], layers, parameters)


def _require_plain(path: Path, facts: Mapping[str, Any]) -> None:
    kind, task, init = (facts.get(key) for key in ("peft_type", "task_type", "init_lora_weights"))
    found = None
    if kind != "LORA":
        found = f"peft_type {kind!r:.40}"
    elif task not in (None, "CAUSAL_LM"):
        found = f"an adapter for task_type {task!r:.40}"
    elif isinstance(init, str) and init.lower() not in PLAIN_INITS:
        name = next((k for k in MUTATING_INITS if init.lower().startswith(k)), None)
        found = f"init_lora_weights {init!r:.40}"
        if name:
            found = f"{MUTATING_INITS[name]}, which changes the model's own weights ({found})"
    elif init is not None and not isinstance(init, bool | str):
        found = f"init_lora_weights {init!r:.40}"
    for field, value in facts.items():
        if found is None and value and field not in READ and field not in INERT:
            unknown = "of a kind that xplm does not know"
            found = f"{KINDS.get(field, unknown)} ({field:.80})"
    if found:
        raise CheckpointError(
            f"an adapter must be plain LoRA; {path} is {found}; merge it with PEFT first, where PEFT can"
        )


def _read_rules(path: Path, facts: Mapping[str, Any], key: str) -> list[Rule]:
    given = facts.get(key) or {}
    if not isinstance(given, dict):
        raise CheckpointError(
            f"{key} must give numbers by regular expressions of modules' names; {path} has {given!r:.80}; "
            "download it again"
        )
    names = _compile(path, key, list(given), before=r"(.*\.)?(", after=")$")
    return list(zip(names, given.values(), strict=True))


def _read_names(path: Path, facts: Mapping[str, Any], key: str) -> list[re.Pattern[str]] | None:
    """One regular expression of whole names, or names and their ends."""
    given = facts.get(key)
    if not given or given == "all-linear":
        return None
    if isinstance(given, str):
        return _compile(path, key, [given], before="(?:", after=r")\Z")
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise CheckpointError(
            f"{key} must be names of modules or one regular expression; {path} has {given!r:.80}; "
            "download it again"
        )
    return [re.compile(rf"(?:.*\.)?{re.escape(name)}\Z") for name in given]


def _read_layers(path: Path, facts: Mapping[str, Any]) -> list[int] | None:
    given = facts.get("layers_to_transform")
    if given is None or given == []:
        return None
    layers = given if isinstance(given, list) else [given]
    if not all(type(layer) is int for layer in layers):
        raise CheckpointError(
            f"layers_to_transform must be numbers of layers; {path} has {given!r:.80}; download it again"
        )
    return layers


def _read_parameters(path: Path, facts: Mapping[str, Any]) -> list[str]:
    given = facts.get("target_parameters") or []
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise CheckpointError(
            f"target_parameters must be names of parameters; {path} has {given!r:.80}; download it again"
        )
    return given


def _first_match(rules: list[Rule], module: str, default: Any) -> Any:
    return next((value for name, value in rules if name.match(module)), default)


def _compile(
    path: Path, field: str, expressions: list[str], *, before: str, after: str
) -> list[re.Pattern[str]]:
    """Compile a file's regular expressions, each between two parts of our own.

    Raises:
        CheckpointError: one is not valid, or they may take long to match.
    """
    compiled = []
    steps = 0.0
    for expression in expressions:
        try:
            steps += _bound_steps(before + expression + after)
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # of Python, about what a later one may read otherwise
                compiled.append(re.compile(before + expression + after))
        except (re.error, OverflowError, RecursionError):
            steps = float("inf")
        if steps > MAX_STEPS:
            raise CheckpointError(
                f"{field} must hold regular expressions that are valid and quick to match; {path} has "
                f"{expression!r:.80}; merge the adapter with PEFT first"
            )
    return compiled


def _bound_steps(expression: str) -> float:
    """A bound of the steps that a backtracking matcher takes with one name; infinite where a group is repeated.

    Every repeat may end at each letter, every option may be tried, and so may the alternatives of every group.
    """
    if len(expression) > MAX_EXPRESSION_CHARS:
        return float("inf")
    letters = re.sub(r"\\.|\[\^?\]?[^\]]*\]", "a", expression)
    if re.search(r"\)(?:[*+]|\{)", letters):
        return float("inf")
    repeats = len(re.findall(r"(?:[*+]|\{[^}]*\})[?+]?", letters))
    options = len(re.findall(r"(?<![(*+}])\?", letters))
    alternatives = [1]
    open_groups = [0]
    for letter in letters:
        if letter == "(":
            open_groups.append(len(alternatives))
            alternatives.append(1)
        elif letter == ")" and len(open_groups) > 1:
            open_groups.pop()
        elif letter == "|":
            alternatives[open_groups[-1]] += 1
    ends = float(comb(NAME_CHARS + repeats, repeats))
    return ends * 2.0**options * prod(map(float, alternatives))
