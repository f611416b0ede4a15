"""Several ops in one call. Each is a composition of portable kernels and gives what they give.

A backend may replace it by one pass over memory. `add_rms_norm` has its way back beside it; the others are for
decoding, where a step over one token spends less on arithmetic than on being called, and have none.

Where a backend has replaced an op of a portable fusion, the runtime leaves that fusion out, and layers call single ops.
"""

import sys
from collections.abc import Callable
from typing import Any

from xplm.kernels import PORTABLE
from xplm.kernels.fusions.add_rms_norm import add_rms_norm_bwd, add_rms_norm_fwd
from xplm.kernels.fusions.bind_blocks import bind_blocks
from xplm.kernels.fusions.norm_attention_residual import norm_attention_residual
from xplm.kernels.fusions.norm_mlp_residual import norm_mlp_residual

FUSIONS: dict[str, Callable[..., Any]] = {
    fusion.__name__: fusion
    for fusion in (
        add_rms_norm_fwd,
        add_rms_norm_bwd,
        norm_attention_residual,
        norm_mlp_residual,
        bind_blocks,
    )
}

MADE_OF: dict[str, set[str]] = {
    name: PORTABLE.keys() & vars(sys.modules[fusion.__module__]).keys()
    for name, fusion in FUSIONS.items()
}
"""Its ops: those that its file imports. A way forward and its way back have the same."""
