"""A family of decoders: how a model_type's config.json becomes blocks and back, and how its tensors are stored."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from xplm.config import DecoderConfig
from xplm.models.families.fields import Fields
from xplm.models.families.gguf import GGUFLayout
from xplm.models.families.stored import Modules
from xplm.specs import BlockSpec

COMMON = (
    "model_type",
    "vocab_size",
    "tie_word_embeddings",
    "initializer_range",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "hidden_act",
    "layer_types",
)
ROPE = ("rope_theta", "rope_scaling", "rope_parameters", "original_max_position_embeddings")

ReadBlocks: TypeAlias = Callable[[Fields], tuple[BlockSpec, ...]]
ReadScales: TypeAlias = Callable[[Fields], dict[str, Any]]
WriteBlocks: TypeAlias = Callable[[DecoderConfig], dict[str, Any]]
Respell: TypeAlias = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def as_it_is(hf: Mapping[str, Any]) -> Mapping[str, Any]:
    """A config.json without words of a family's own."""
    return hf


def no_modules(_: BlockSpec) -> Modules:
    """No modules that a block decides."""
    return {}


def no_scales(_: Fields) -> dict[str, Any]:
    """Embeddings and logits as they are."""
    return {}


@dataclass(frozen=True)
class Family:
    """All that xplm knows of a model_type."""

    model_type: str
    architecture: str  # transformers' class
    keys: tuple[str, ...]  # of config.json, that are read
    norm_eps_key: str  # "": it is fixed
    hidden_act: str  # of its MLP, where config.json says nothing
    read_blocks: ReadBlocks
    write_blocks: WriteBlocks  # keys that not all families have
    read_scales: ReadScales = no_scales
    """`embedding_scale`, `logit_scale` and `logit_cap` of the DecoderConfig, those that are not its defaults."""
    has_learned_positions: bool = False
    position_offset: int = 0  # rows of the table of positions before that of position 0
    has_head_bias: bool = False
    inert: tuple[str, ...] = ()  # further keys of transformers' class, which change no logits
    spelling: Mapping[str, str] = field(default_factory=dict)  # our key -> the family's
    respell: Respell = as_it_is  # values that the family calls otherwise, in the usual words
    aliases: tuple[str, ...] = ()  # our keys that transformers' class takes for the family's
    defaults: Mapping[str, Any] = field(default_factory=dict)  # of keys that config.json leaves out
    modules: Modules = field(default_factory=dict)
    block_modules: Callable[[BlockSpec], Modules] = (
        no_modules  # further ones, which a block decides
    )
    quant_methods: tuple[str, ...] = ()  # of quantization_config, whose tensors can be read
    bare_prefix: str = ""  # of tensors' names, left out by files of the model without its head
    experts_module: str = "mlp.experts"  # transformers' module of a layer's experts
    gguf: tuple[GGUFLayout, ...] = ()  # spellings that are read, the one to write first
