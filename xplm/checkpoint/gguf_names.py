"""GGUF's names of tensors, and ours.

    blk.3.attn_q.weight     model.layers.3.self_attn.q_proj.weight
    output_norm.weight      model.norm.weight

Source: the name tables of the gguf package.
"""

import re
from collections.abc import Iterable, Mapping

from xplm.models.families.gguf import GGUFLayout

TOP_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.embed_positions": "position_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""Our name of a module -> GGUF's, in all architectures."""

IN_BLOCK = re.compile(r"(blk\.\d+)\.(\w+)\.(\w+)")
"""A tensor of a block: block, module, weight or bias."""
IN_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
"""A tensor of ours in a block: the block's number, and the rest of the name."""


def hugging_face_name(name: str, layout: GGUFLayout) -> str:
    """Our name of a tensor.

    Args:
        name: the GGUF name.
        layout: the family's.

    Returns:
        Hugging Face's name, or the name as it is where there is none.
    """
    stem, _, suffix = name.rpartition(".")
    top = {theirs: ours for ours, theirs in TOP_NAMES.items()}
    if stem in top:
        return f"{top[stem]}.{suffix}"
    in_layer = {theirs: ours for ours, theirs in (LAYER_NAMES | dict(layout.modules)).items()}
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)", stem)
    if not match:
        return name
    layer, module = f"model.layers.{match[1]}", match[2]
    for ours, theirs in layout.tensors.items():
        if theirs == f"{module}.{suffix}":
            return f"{layer}.{ours}"
    return f"{layer}.{in_layer[module]}.{suffix}" if module in in_layer else name


def is_vector(name: str, layout: GGUFLayout) -> bool:
    """Whether a tensor of ours is a matrix of one row that a file may hold as a vector."""
    match = re.fullmatch(r"model\.layers\.\d+\.(.+)\.weight", name)
    return match is not None and match[1] in layout.vectors


def parts_of(name: str, joined: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The GGUF names of the tensors that one holds: its own where it holds no others.

    Args:
        name: the GGUF name.
        joined: modules that hold several.
    """
    match = IN_BLOCK.fullmatch(name)
    if not match or match[2] not in joined:
        return (name,)
    return tuple(f"{match[1]}.{part}.{match[3]}" for part in joined[match[2]])


def join_names(names: Iterable[str], layout: GGUFLayout) -> dict[str, tuple[str, ...]]:
    """GGUF's names of the tensors of a file -> our names of what each holds, or holds a part of (`GGUFLayout.by_head`).

    Args:
        names: ours.
        layout: the family's.
    """
    wholes = {part: whole for whole, parts in layout.joined.items() for part in parts}
    together: dict[str, dict[str, str]] = {}
    cut: dict[str, tuple[str, ...]] = {}
    for name in names:
        match = IN_LAYER.fullmatch(name)
        if match and (parts := layout.by_head.get(match[2].rpartition(".")[0])):
            cut |= {f"blk.{match[1]}.{part}.weight": (name,) for part in parts}
            continue
        own = whole = gguf_name(name, layout)
        if match := IN_BLOCK.fullmatch(own):
            whole = f"{match[1]}.{wholes.get(match[2], match[2])}.{match[3]}"
        together.setdefault(whole, {})[own] = name
    return {
        whole: tuple(held[part] for part in parts_of(whole, layout.joined))
        for whole, held in together.items()
    } | cut


def gguf_name(name: str, layout: GGUFLayout) -> str:
    """GGUF's name of a tensor, as llama.cpp's converter writes it.

    Args:
        name: ours.
        layout: the family's.

    Returns:
        GGUF's name, or the name as it is where there is none.
    """
    stem, _, suffix = name.rpartition(".")
    if stem in TOP_NAMES:
        return f"{TOP_NAMES[stem]}.{suffix}"
    match = IN_LAYER.fullmatch(name)
    if not match:
        return name
    block, ours = f"blk.{match[1]}", match[2]
    if ours in layout.tensors:
        return f"{block}.{layout.tensors[ours]}"
    module = (LAYER_NAMES | dict(layout.modules)).get(ours.rpartition(".")[0])
    return f"{block}.{module}.{suffix}" if module else name
