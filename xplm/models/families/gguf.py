"""How a GGUF file spells a family.

The keys that all architectures have are read and written in `xplm.checkpoint.gguf_config`. What one of them differs in
is its family's GGUFLayout.

Source: llama.cpp, its converter (conversion/) and its architectures (src/models/).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from xplm.config import DecoderConfig
from xplm.errors import ConfigError
from xplm.models.families.rope import share_of
from xplm.models.families.windows import FULL, SLIDING
from xplm.specs import BlockSpec, RopeSpec

REQUIRED: Any = object()  # the default of a key that has none

RMS_NORM_EPS = "attention.layer_norm_rms_epsilon"
LAYER_NORM_EPS = "attention.layer_norm_epsilon"
WINDOW = "attention.sliding_window"
PATTERN = "attention.sliding_window_pattern"
ROTATED = "rope.dimension_count"
YARN_LOG = "rope.scaling.yarn_log_multiplier"
NEXTN = "nextn_predict_layers"

JOINED = {"attn_qkv": ("attn_q", "attn_k", "attn_v")}
"""Modules of a block that any file may hold as one, their rows one after another."""


class GGUFFile:
    """The keys below an architecture's name, read and checked, and the names of the tensors."""

    def __init__(
        self, architecture: str, metadata: Mapping[str, Any], shapes: Mapping[str, Any]
    ) -> None:
        """Wrap a file's key-value pairs and its tensors' shapes, by GGUF name."""
        self.architecture = architecture
        self.metadata = metadata
        self.shapes = shapes

    def integer(self, key: str, default: Any = REQUIRED) -> int:
        """An integer below the architecture's name."""
        return int(read_value(self.metadata, f"{self.architecture}.{key}", int, default))

    def number(self, key: str, default: Any = REQUIRED) -> float:
        """A positive number below the architecture's name."""
        key = f"{self.architecture}.{key}"
        value = float(read_value(self.metadata, key, (int, float), default))
        if not 0.0 < value < math.inf:
            raise ConfigError(f"GGUF key {key} must be a positive number; got {value}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """True or false below the architecture's name."""
        value = self.metadata.get(f"{self.architecture}.{key}", default)
        if not isinstance(value, bool):
            raise ConfigError(
                f"GGUF key {self.architecture}.{key} must be true or false; got {value!r:.40}"
            )
        return value

    def has_bias(self, module: str) -> bool:
        """Whether a module of the first block has a bias, by itself or joined with others."""
        names = (module, *(whole for whole, parts in JOINED.items() if module in parts))
        return any(f"blk.0.{name}.bias" in self.shapes for name in names)

    @property
    def head_dim(self) -> int:
        """D."""
        share = self.integer("embedding_length") // max(self.integer("attention.head_count"), 1)
        return self.integer("attention.key_length", share)


def read_value(metadata: Mapping[str, Any], key: str, kind: Any, default: Any = REQUIRED) -> Any:
    """The value of a key of one kind; `default`, whatever it is, where the key is absent.

    Raises:
        ConfigError: the key is missing or has another kind.
    """
    value = metadata.get(key, default)
    if value is default and default is not REQUIRED:
        return value
    if isinstance(value, bool) or not isinstance(value, kind):
        got = "nothing" if value is REQUIRED else repr(value)[:40]
        raise ConfigError(
            f"GGUF key {key} must be a single number, or one for each layer that are all the same; got {got}"
        )
    return value


ReadKeys: TypeAlias = Callable[[GGUFFile], dict[str, Any]]
WriteKeys: TypeAlias = Callable[[DecoderConfig], dict[str, Any]]


def first_rope(config: DecoderConfig) -> RopeSpec | None:
    """The rotary positions of the first layer that has any; None where they are learned."""
    return config.ropes[0] if config.ropes else None


def nothing(_: Any) -> dict[str, Any]:
    """No keys of a family's own."""
    return {}


@dataclass(frozen=True)
class GGUFLayout:
    """How a GGUF file spells a family."""

    architecture: str
    claims: Callable[[GGUFFile], bool] | None = None
    """Which files of an architecture that families share are this one's; None: those that no other claims."""
    norm_eps_key: str = RMS_NORM_EPS
    keys: tuple[str, ...] = ()
    """Keys that `read` reads, of those that not all architectures have."""
    read: ReadKeys = nothing
    """Fields of config.json beside those that all families have."""
    write: WriteKeys = nothing
    """The keys that they are read from; one whose value is None is left out."""
    rope: Callable[[DecoderConfig], RopeSpec | None] = first_rope
    """The rotary positions that the keys of all architectures hold."""
    modules: Mapping[str, str] = field(default_factory=dict)
    """Our name of a module in a block -> GGUF's, beside those that all architectures have."""
    block_modules: Callable[[BlockSpec], Mapping[str, str]] = nothing
    """Further ones, which a block decides."""
    tensors: Mapping[str, str] = field(default_factory=dict)
    """Our name of a tensor in a block -> GGUF's, of those that are no module's weight or bias in both."""
    joined: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """A module that holds several as one, as in JOINED, in every file of this layout."""
    by_head: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    """Our module -> GGUF's, each with some rows of every head, (H, rows, inputs); True: stored as (H, inputs, rows)."""
    numbered: Mapping[str, str] = field(default_factory=dict)
    """A module of older files, one for each expert as in blk.0.MODULE.3.weight -> that of all experts."""
    vectors: frozenset[str] = frozenset()
    """Our names of modules of one row (1, C), whose weight a file may hold as (C,)."""
    has_interleaved_rows: bool = False
    """Whether the rows of q and k lie pair by pair, not half after half."""
    norm_offset: float = 0.0
    """Added to the weights of norms as they are stored."""
    has_own_head: bool = False
    """Whether tied embeddings are stored twice."""
    has_head: bool = True
    """Whether there is a place for a head that is not the embedding."""

    def of(self, block: BlockSpec) -> "GGUFLayout":
        """The layout of a model of such blocks."""
        return replace(self, modules={**self.modules, **self.block_modules(block)})


def write_window(config: DecoderConfig) -> dict[str, Any]:
    """The key of a window that all layers have."""
    return {WINDOW: config.blocks[0].mixer.window}


def read_rotated_share(file: GGUFFile) -> dict[str, Any]:
    """The share of a head that is rotated: all of it where the file does not say."""
    D = file.head_dim
    rotated = file.integer(ROTATED, D)
    if not 0 < rotated <= D or rotated % 2:
        raise ConfigError(
            f"GGUF key {file.architecture}.{ROTATED} is an even number, at most the {D} of a head; "
            f"got {rotated}"
        )
    return {"partial_rotary_factor": share_of(rotated, D)}


def read_windows_by_layer(file: GGUFFile, period: int = 4) -> dict[str, Any]:
    """The window, and the layers that have it: those that the pattern names, or all but every `period`-th."""
    window, layers = file.integer(WINDOW, 0) or None, file.integer("block_count")
    pattern = file.metadata.get(f"{file.architecture}.{PATTERN}", period)
    if isinstance(pattern, bool):  # one for each layer, and all the same
        pattern = [pattern] * layers
    if not isinstance(pattern, list):
        period = file.integer(PATTERN, period)
        pattern = [(layer + 1) % max(period, 1) != 0 for layer in range(layers)]
    kinds = [SLIDING if is_sliding and window else FULL for is_sliding in pattern]
    return {"sliding_window": window, "layer_types": kinds}


def write_windows_by_layer(config: DecoderConfig) -> dict[str, Any]:
    """The keys of a window that some layers have; none where no layer has one."""
    windows = [block.mixer.window for block in config.blocks]
    window = next((w for w in windows if w is not None), None)
    pattern = None if window is None else [w is not None for w in windows]
    return {WINDOW: window, PATTERN: pattern}
