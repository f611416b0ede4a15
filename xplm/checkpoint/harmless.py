"""Tensors that files hold beside a model's parameters, and that no answer depends on.

Older versions of libraries store constants that follow from the configuration; training and serving tools add heads
and scales of their own. Any other tensor that a configuration has no place for is refused.
"""

import math
import re
from collections.abc import Iterable

from xplm.checkpoint.checkpoint import TensorInfo

_ATTENTION = r"(?:.*\.)?(?:self_attn|attn|attention)\."

_UNUSED = re.compile(
    "|".join(
        (
            r"(?:.*\.)?(?:rotary_emb|rotary_pos_emb)\.(?:(?:original_)?inv_freq|(?:cos|sin)_cached)",
            r"(?:.*\.)?rope\.freqs",
            r"blk\.\d+\.attn_rot_embd\.weight",  # GGUF's name of these frequencies
            r"(?:.*\.)?(?:position_ids|causal_mask)",
            r"(?:v_head|value_head|multiple_choice_head)\..+",  # for rewards and for choices, not for text
            r"(?:.*\.)?_extra_state",  # of Transformer Engine: the scales of its 8-bit products
        )
    )
)
_MASK = re.compile(rf"{_ATTENTION}(?:masked_)?bias")
"""A causal mask (1, 1, T, T), or the one number that hides a score; a bias would have one dimension."""

_CACHE_SCALE = re.compile(
    rf"{_ATTENTION}(?:\w+\.)?(?:[qkv]_scale|kv_scale|prob_scale)|{_ATTENTION}[kv]_proj\.output_scale"
)
"""One number that 8-bit keys, values and scores are multiplied by, in servers that keep them so."""


_PREDICTION = re.compile(r"(?:model\.layers|blk)\.(\d{1,9})\.(?:nextn\.)?eh_proj\.weight")
"""The projection that layers of further predictions begin with, of a directory and of a GGUF file."""
_LAYER = re.compile(r"(?:model\.layers|blk)\.(\d{1,9})\..+")


def prediction_tensors(names: Iterable[str], layers: int) -> set[str]:
    """The tensors of layers behind the last that predict the token after the next, as DeepSeek-V3 and GLM-4.5 have.

    Args:
        names: of a file's tensors.
        layers: of the model, without these.
    """
    names = list(names)
    first = {match[1] for name in names if (match := _PREDICTION.fullmatch(name))}
    behind = {number for number in first if int(number) >= layers}
    return {n for n in names if (match := _LAYER.fullmatch(n)) and match[1] in behind}


def is_harmless(name: str, tensor: TensorInfo) -> bool:
    """Whether a tensor may be left out.

    Args:
        name: as the file has it.
        tensor: its shape, which tells a mask from a bias and a cache's scale from a learned one.
    """
    if _MASK.fullmatch(name):
        return len(tensor.shape) != 1
    if _CACHE_SCALE.fullmatch(name):
        return math.prod(tensor.shape) == 1
    return _UNUSED.fullmatch(name) is not None
