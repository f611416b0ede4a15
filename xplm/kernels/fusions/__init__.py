"""Several ops in one call, for decoding: a step over one token spends less on arithmetic than on being called.

Each is a composition of portable kernels and gives what they give. A backend may replace it by one pass over the
weights. Nothing here is differentiated, so there is no way back.
"""

from collections.abc import Callable
from typing import Any

from xplm.kernels.fusions.attention_residual import attention_residual
from xplm.kernels.fusions.norm_mlp_residual import norm_mlp_residual
from xplm.kernels.fusions.norm_qkv_rope import norm_qkv_rope

FUSIONS: dict[str, Callable[..., Any]] = {
    fusion.__name__: fusion for fusion in (norm_qkv_rope, attention_residual, norm_mlp_residual)
}
