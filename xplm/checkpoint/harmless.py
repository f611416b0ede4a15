"""Tensors that files hold beside a model's parameters, and that no answer depends on.

Older versions of libraries store constants that follow from the configuration; training and serving tools add heads
and scales of their own. Any other tensor that a configuration has no place for is refused.
"""

import math
import re

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
