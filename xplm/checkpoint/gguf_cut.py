"""Parameters that a GGUF file holds in several tensors.

blk.0.attn_k_b   (H, R, N)     of self_attn.kv_b_proj (H (N + Dv), R) the first N rows of each head, transposed,
blk.0.attn_v_b   (H, Dv, R)    and the other Dv (`GGUFLayout.by_head`)
"""

import re
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from xplm.checkpoint.gguf_header import StoredTensor
from xplm.checkpoint.gguf_names import IN_BLOCK, hugging_face_name
from xplm.errors import CheckpointError
from xplm.models.families.gguf import GGUFLayout

Unpack = Callable[[StoredTensor, np.dtype[Any], str], np.ndarray]
"""(tensor, dtype, our name) -> its numbers."""
Shape = tuple[int, ...]
MAX_LISTED = 9  # experts or shapes in a message
OF_EXPERT = re.compile(r"(blk\.\d+)\.(\w+)\.(0|[1-9]\d{0,8})\.weight")
"""A tensor of one expert: block, module, expert."""


class Part(NamedTuple):
    """A tensor of the file, and its place in the parameter."""

    tensor: StoredTensor
    place: tuple[Any, ...]  # an index of the parameter as it is filled
    is_transposed: bool


class CutTensor(NamedTuple):
    """A parameter in parts."""

    parts: tuple[Part, ...]
    filled: Shape  # as the parts fill it
    shape: Shape

    def read(self, unpack: Unpack, dtype: np.dtype[Any], name: str) -> np.ndarray:
        """The parameter."""
        whole = np.empty(self.filled, dtype)
        for part in self.parts:
            array = unpack(part.tensor, dtype, name)
            whole[part.place] = np.matrix_transpose(array) if part.is_transposed else array
        return whole.reshape(self.shape)


def take_cut_tensors(stored: dict[str, StoredTensor], layout: GGUFLayout) -> dict[str, CutTensor]:
    """The parameters of a file that are in several tensors.

    Args:
        stored: all tensors, by GGUF name; those that are parts are taken out.
        layout: the family's.

    Returns:
        The parameters, by our names.

    Raises:
        CheckpointError: the parts of a parameter do not fit together.
    """
    return _take_heads(stored, layout) | _take_experts(stored, layout)


def _take_heads(stored: dict[str, StoredTensor], layout: GGUFLayout) -> dict[str, CutTensor]:
    blocks = dict.fromkeys(match[1] for name in stored if (match := IN_BLOCK.fullmatch(name)))
    taken = {}
    for block in blocks:
        for module, parts in layout.by_head.items():
            names = {f"{block}.{part}.weight": turned for part, turned in parts.items()}
            if names.keys() <= stored.keys():
                layer = block.replace("blk", "model.layers")
                tensors = {name: stored.pop(name) for name in names}
                taken[f"{layer}.{module}.weight"] = _by_head(tensors, names)
    return taken


def _take_experts(stored: dict[str, StoredTensor], layout: GGUFLayout) -> dict[str, CutTensor]:
    found: dict[str, dict[int, StoredTensor]] = {}
    for name in list(stored):
        match = OF_EXPERT.fullmatch(name)
        if match and match[2] in layout.numbered:
            whole = f"{match[1]}.{layout.numbered[match[2]]}.weight"
            found.setdefault(whole, {})[int(match[3])] = stored.pop(name)
    return {hugging_face_name(name, layout): _stacked(name, found[name]) for name in found}


def _stacked(name: str, experts: Mapping[int, StoredTensor]) -> CutTensor:
    """One after another."""
    shapes = {tensor.shape for tensor in experts.values()}
    if len(shapes) > 1 or {*experts} != {*range(len(experts))}:
        raise CheckpointError(
            f"experts must be numbered from 0 and have one shape; the parts of {name} are "
            f"{sorted(experts)[:MAX_LISTED]} of the shapes {sorted(shapes)[:MAX_LISTED]}; convert the model again"
        )
    shape = (len(experts), *shapes.pop())
    parts = tuple(Part(tensor, (number,), False) for number, tensor in experts.items())
    return CutTensor(parts, shape, shape)


def _by_head(tensors: Mapping[str, StoredTensor], turned: Mapping[str, bool]) -> CutTensor:
    """Rows of each head, in the parts' order.

    Args:
        tensors: each of (H, rows, inputs), or (H, inputs, rows).
        turned: whether it is the latter.
    """
    shapes = {
        name: (*shape[:-2], shape[-1], shape[-2]) if turned[name] and len(shape) > 1 else shape
        for name, shape in ((name, tensor.shape) for name, tensor in tensors.items())
    }
    first = next(iter(shapes.values()))
    if any(len(s) != 3 or (s[0], s[2]) != (first[0], first[2]) for s in shapes.values()):
        listed = ", ".join(f"{name} {tensor.shape}" for name, tensor in tensors.items())
        raise CheckpointError(
            f"rows of the same heads must have three dimensions, and as many heads and inputs; got {listed}; "
            f"convert the model again"
        )
    ends = [0, *accumulate(shape[1] for shape in shapes.values())]
    return CutTensor(
        tuple(
            Part(tensors[name], (slice(None), slice(*ends[i : i + 2])), turned[name])
            for i, name in enumerate(tensors)
        ),
        filled=(first[0], ends[-1], first[2]),
        shape=(first[0] * ends[-1], first[2]),
    )
