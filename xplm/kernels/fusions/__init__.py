"""Several ops in one call, for decoding: a step over one token spends less on arithmetic than on being called.

Each is a composition of portable kernels and gives what they give. A backend may replace it by one pass over the
weights. Nothing here is differentiated, so there is no way back.
"""

from collections.abc import Callable
from typing import Any

from xplm.kernels.fusions.bind_blocks import bind_blocks
from xplm.kernels.fusions.norm_attention_residual import norm_attention_residual
from xplm.kernels.fusions.norm_mlp_residual import norm_mlp_residual

FUSIONS: dict[str, Callable[..., Any]] = {
    fusion.__name__: fusion for fusion in (norm_attention_residual, norm_mlp_residual, bind_blocks)
}
