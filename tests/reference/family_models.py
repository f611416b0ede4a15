"""Tiny random models of transformers' families, and what passes between the parts of their blocks."""

from __future__ import annotations

import importlib
import inspect
import warnings
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from types import ModuleType
from typing import Any

T = 8  # positions
HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INNER, VOCAB, EXPERTS, CHOSEN = 32, 4, 2, 8, 24, 40, 8, 3
WINDOW = 4

SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "intermediate_size": INNER,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "num_local_experts": EXPERTS,
    "num_experts": EXPERTS,
    "n_routed_experts": EXPERTS,
    "num_experts_per_tok": CHOSEN,
    "moe_intermediate_size": INNER,
    "shared_expert_intermediate_size": INNER,
    # GPT-2, Falcon, OPT
    "n_embd": HIDDEN,
    "n_head": HEADS,
    "n_positions": 64,
    "num_kv_heads": KV_HEADS,
    "ffn_hidden_size": INNER,
    "ffn_dim": INNER,
    "word_embed_proj_dim": HIDDEN,
    # DeepSeek
    "q_lora_rank": 12,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "n_group": 4,
    "topk_group": 2,
}
OWN_SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"num_key_value_heads": HEADS},
    "opt": {"num_key_value_heads": HEADS},
    "deepseek_v2": {"num_key_value_heads": HEADS},
    "deepseek_v3": {"num_key_value_heads": HEADS},
}
"""Sizes by the name of their key; a configuration takes those of its fields."""


@cache
def default_config(transformers: Any, model_type: str) -> Any:
    """transformers' configuration where config.json says nothing."""
    return transformers.AutoConfig.for_model(model_type)


def tiny_config(transformers: Any, model_type: str, layers: int, **keys: Any) -> Any:
    """The configuration of a tiny model: transformers' defaults, but for sizes and for `keys`."""
    default = default_config(transformers, model_type)
    cls = type(default)
    names = set(inspect.signature(cls).parameters)
    sizes = {key: size for key, size in SIZES.items() if key in names}
    sizes |= {key: size for key, size in OWN_SIZES.get(model_type, {}).items() if key in names}
    if getattr(default, "sliding_window", None):
        sizes["sliding_window"] = WINDOW
    config = cls(**{**sizes, "num_hidden_layers": layers, **keys})
    config._attn_implementation = "eager"  # whose masks are arrays
    return config


@dataclass
class Call:
    """One call of a module: its first input and output, and its keyword arguments."""

    name: str
    input: Any
    output: Any
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class TinyFamily:
    """A tiny model with random weights, and one pass through it."""

    transformers: Any
    torch: Any
    model_type: str
    layers: int
    keys: dict[str, Any]

    def like(self, **keys: Any) -> TinyFamily:
        """The same with other keys."""
        return replace(self, keys={**self.keys, **keys})

    @cached_property
    def config(self) -> Any:
        return tiny_config(self.transformers, self.model_type, self.layers, **self.keys)

    @cached_property
    def model(self) -> Any:
        torch = self.torch
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of others' code
            model = self.transformers.AutoModelForCausalLM.from_config(self.config).eval()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0.0, 0.3, generator=generator)
        return model

    @cached_property
    def source(self) -> ModuleType:
        """The module that the model's class stands in."""
        return importlib.import_module(type(self.model).__module__)

    @cached_property
    def blocks(self) -> Any:
        """The list of blocks."""
        (blocks,) = [
            module
            for module in self.model.modules()
            if isinstance(module, self.torch.nn.ModuleList)
            and type(module[0]).__name__.endswith(("Layer", "Block"))
        ]
        return blocks

    def attention(self, layer: int = 0) -> Any:
        """The attention of one block."""
        return self.blocks[layer].get_submodule(self.attention_name)

    @cached_property
    def attention_name(self) -> str:
        (name,) = [
            name
            for name, _ in self.blocks[0].named_children()
            if name in ("self_attn", "self_attention", "attention", "attn")
        ]
        return name

    def mlp(self, layer: int = 0) -> Any:
        """The feed-forward part of one block; the block itself where its layers stand there."""
        block = self.blocks[layer]
        names = [name for name, _ in block.named_children() if name in ("mlp", "block_sparse_moe")]
        return block.get_submodule(names[0]) if names else block

    @cached_property
    def ids(self) -> Any:
        return self.torch.arange(3, 3 + T)[None]

    @cached_property
    def calls(self) -> list[Call]:
        """Every call of the last block's parts, of every attention and every block, of the head and the model."""
        calls: list[Call] = []
        watched = {
            f"block.{self.layers - 1}.{name}": part for name, part in self.last_block_parts()
        }
        watched |= {f"block.{layer}": block for layer, block in enumerate(self.blocks)}
        watched |= {f"attention.{layer}": self.attention(layer) for layer in range(self.layers)}
        watched |= {"head": self.model.get_output_embeddings()}
        handles = [
            part.register_forward_hook(_recorder(name, calls), with_kwargs=True)
            for name, part in watched.items()
        ]
        with self.torch.no_grad():
            logits = self.model(self.ids, use_cache=False).logits
        for handle in handles:
            handle.remove()
        calls.append(Call("model", self.ids, logits))
        return calls

    def last_block_parts(self) -> list[tuple[str, Any]]:
        return [(name, part) for name, part in self.blocks[self.layers - 1].named_modules() if name]

    def call(self, name: str) -> Call:
        (found,) = [call for call in self.calls if call.name == name]
        return found


def _recorder(name: str, calls: list[Call]) -> Any:
    def record(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        first = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        output = output[0] if isinstance(output, tuple) else output
        calls.append(Call(name, first.detach().clone(), output.detach().clone(), kwargs))

    return record


def is_norm(module: Any) -> bool:
    return "Norm" in type(module).__name__
