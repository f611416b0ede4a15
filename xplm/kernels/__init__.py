"""Every kernel, one op a file, and the table of their portable forms."""

from collections.abc import Callable
from typing import Any

from xplm.kernels.attention import attention_bwd, attention_fwd
from xplm.kernels.clamped_swiglu import clamped_swiglu_bwd, clamped_swiglu_fwd
from xplm.kernels.cross_entropy import cross_entropy_bwd, cross_entropy_fwd
from xplm.kernels.dropout import dropout_bwd, dropout_fwd
from xplm.kernels.embedding import embedding_bwd, embedding_fwd
from xplm.kernels.expert_linear import expert_linear_bwd, expert_linear_fwd
from xplm.kernels.expert_sum import expert_sum_bwd, expert_sum_fwd
from xplm.kernels.gelu import gelu_bwd, gelu_fwd
from xplm.kernels.gelu_erf import gelu_erf_bwd, gelu_erf_fwd
from xplm.kernels.layer_norm import layer_norm_bwd, layer_norm_fwd
from xplm.kernels.linear import linear_bwd, linear_fwd
from xplm.kernels.linear_cross_entropy import linear_cross_entropy_bwd, linear_cross_entropy_fwd
from xplm.kernels.relu import relu_bwd, relu_fwd
from xplm.kernels.relu2 import relu2_bwd, relu2_fwd
from xplm.kernels.rms_norm import rms_norm_bwd, rms_norm_fwd
from xplm.kernels.rope import rope_bwd, rope_fwd
from xplm.kernels.router import router_bwd, router_fwd
from xplm.kernels.sigmoid_gate import sigmoid_gate_bwd, sigmoid_gate_fwd
from xplm.kernels.softmax import softmax_bwd, softmax_fwd
from xplm.kernels.swiglu import swiglu_bwd, swiglu_fwd


class Ops:
    """The portable kernels. A runtime's `ops` has their names and signatures, also where a backend replaces them."""

    attention_fwd = staticmethod(attention_fwd)
    attention_bwd = staticmethod(attention_bwd)
    clamped_swiglu_fwd = staticmethod(clamped_swiglu_fwd)
    clamped_swiglu_bwd = staticmethod(clamped_swiglu_bwd)
    cross_entropy_fwd = staticmethod(cross_entropy_fwd)
    cross_entropy_bwd = staticmethod(cross_entropy_bwd)
    dropout_fwd = staticmethod(dropout_fwd)
    dropout_bwd = staticmethod(dropout_bwd)
    embedding_fwd = staticmethod(embedding_fwd)
    embedding_bwd = staticmethod(embedding_bwd)
    expert_linear_fwd = staticmethod(expert_linear_fwd)
    expert_linear_bwd = staticmethod(expert_linear_bwd)
    expert_sum_fwd = staticmethod(expert_sum_fwd)
    expert_sum_bwd = staticmethod(expert_sum_bwd)
    gelu_fwd = staticmethod(gelu_fwd)
    gelu_bwd = staticmethod(gelu_bwd)
    gelu_erf_fwd = staticmethod(gelu_erf_fwd)
    gelu_erf_bwd = staticmethod(gelu_erf_bwd)
    layer_norm_fwd = staticmethod(layer_norm_fwd)
    layer_norm_bwd = staticmethod(layer_norm_bwd)
    linear_fwd = staticmethod(linear_fwd)
    linear_bwd = staticmethod(linear_bwd)
    linear_cross_entropy_fwd = staticmethod(linear_cross_entropy_fwd)
    linear_cross_entropy_bwd = staticmethod(linear_cross_entropy_bwd)
    relu_fwd = staticmethod(relu_fwd)
    relu_bwd = staticmethod(relu_bwd)
    relu2_fwd = staticmethod(relu2_fwd)
    relu2_bwd = staticmethod(relu2_bwd)
    rms_norm_fwd = staticmethod(rms_norm_fwd)
    rms_norm_bwd = staticmethod(rms_norm_bwd)
    rope_fwd = staticmethod(rope_fwd)
    rope_bwd = staticmethod(rope_bwd)
    router_fwd = staticmethod(router_fwd)
    router_bwd = staticmethod(router_bwd)
    sigmoid_gate_fwd = staticmethod(sigmoid_gate_fwd)
    sigmoid_gate_bwd = staticmethod(sigmoid_gate_bwd)
    softmax_fwd = staticmethod(softmax_fwd)
    softmax_bwd = staticmethod(softmax_bwd)
    swiglu_fwd = staticmethod(swiglu_fwd)
    swiglu_bwd = staticmethod(swiglu_bwd)


PORTABLE: dict[str, Callable[..., Any]] = {
    name: getattr(Ops, name)
    for name, kernel in vars(Ops).items()
    if isinstance(kernel, staticmethod)
}
"""The same by function name."""
