"""Several ops in one call. Each is a composition of portable kernels and gives what they give.

A backend may replace it by one pass over memory. `add_rms_norm` has its backward pass next to it; the others are for
decoding, where a step over one token spends less on arithmetic than on being called, and have none.

Where a backend has replaced an op of a portable fusion, the runtime leaves that fusion out, and layers call single ops.
"""

from collections.abc import Callable
from typing import Any

from xplm.kernels import Ops
from xplm.kernels.attention import attention_fwd
from xplm.kernels.fusions.absorbed_attention import absorbed_attention
from xplm.kernels.fusions.add_rms_norm import add_rms_norm_bwd, add_rms_norm_fwd
from xplm.kernels.fusions.bind_blocks import bind_blocks
from xplm.kernels.fusions.cached_attention import cached_attention
from xplm.kernels.fusions.norm_attention_residual import norm_attention_residual
from xplm.kernels.fusions.norm_mlp_residual import norm_mlp_residual
from xplm.kernels.gelu import gelu_fwd
from xplm.kernels.gelu_erf import gelu_erf_fwd
from xplm.kernels.layer_norm import layer_norm_fwd
from xplm.kernels.linear import linear_fwd
from xplm.kernels.relu import relu_fwd
from xplm.kernels.relu2 import relu2_fwd
from xplm.kernels.rms_norm import rms_norm_bwd, rms_norm_fwd
from xplm.kernels.rope import rope_fwd
from xplm.kernels.swiglu import swiglu_fwd


class OpsAndFusions(Ops):
    """The portable kernels and fusions. A runtime's `ops` may lack fusions: its `has` says which it has."""

    add_rms_norm_fwd = staticmethod(add_rms_norm_fwd)
    add_rms_norm_bwd = staticmethod(add_rms_norm_bwd)
    cached_attention = staticmethod(cached_attention)
    absorbed_attention = staticmethod(absorbed_attention)
    norm_attention_residual = staticmethod(norm_attention_residual)
    norm_mlp_residual = staticmethod(norm_mlp_residual)
    bind_blocks = staticmethod(bind_blocks)


FUSIONS: dict[str, Callable[..., Any]] = {
    name: getattr(OpsAndFusions, name)
    for name, fusion in vars(OpsAndFusions).items()
    if isinstance(fusion, staticmethod)
}
"""The portable fusions by function name."""

_NORMS = (rms_norm_fwd, layer_norm_fwd)
_ACTIVATIONS = (gelu_fwd, gelu_erf_fwd, relu_fwd, relu2_fwd, swiglu_fwd)

_PARTS: dict[Callable[..., Any], tuple[Callable[..., Any], ...]] = {
    add_rms_norm_fwd: (rms_norm_fwd, rms_norm_bwd),  # saves what rms_norm_bwd reads
    add_rms_norm_bwd: (rms_norm_fwd, rms_norm_bwd),
    cached_attention: (attention_fwd,),
    absorbed_attention: (attention_fwd, cached_attention),
    norm_attention_residual: (
        *(*_NORMS, linear_fwd, rope_fwd, attention_fwd),
        cached_attention,
    ),
    norm_mlp_residual: (*_NORMS, linear_fwd, *_ACTIVATIONS),
    bind_blocks: (),  # calls the halves that it is given
}

MADE_OF: dict[str, frozenset[str]] = {
    fusion.__name__: frozenset(op.__name__ for op in ops) for fusion, ops in _PARTS.items()
}
"""The ops that each fusion is made of, and the fusions."""
