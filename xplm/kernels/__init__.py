"""Every kernel, one op a file, and the table of their portable forms by function name."""

from collections.abc import Callable
from typing import Any

from xplm.kernels.attention import attention_bwd, attention_fwd
from xplm.kernels.cross_entropy import cross_entropy_bwd, cross_entropy_fwd
from xplm.kernels.dropout import dropout_bwd, dropout_fwd
from xplm.kernels.embedding import embedding_bwd, embedding_fwd
from xplm.kernels.gelu import gelu_bwd, gelu_fwd
from xplm.kernels.layer_norm import layer_norm_bwd, layer_norm_fwd
from xplm.kernels.linear import linear_bwd, linear_fwd
from xplm.kernels.linear_cross_entropy import linear_cross_entropy_bwd, linear_cross_entropy_fwd
from xplm.kernels.rms_norm import rms_norm_bwd, rms_norm_fwd
from xplm.kernels.rope import rope_bwd, rope_fwd
from xplm.kernels.softmax import softmax_bwd, softmax_fwd
from xplm.kernels.swiglu import swiglu_bwd, swiglu_fwd

PORTABLE: dict[str, Callable[..., Any]] = {
    kernel.__name__: kernel
    for kernel in (
        attention_fwd,
        attention_bwd,
        cross_entropy_fwd,
        cross_entropy_bwd,
        dropout_fwd,
        dropout_bwd,
        embedding_fwd,
        embedding_bwd,
        gelu_fwd,
        gelu_bwd,
        layer_norm_fwd,
        layer_norm_bwd,
        linear_fwd,
        linear_bwd,
        linear_cross_entropy_fwd,
        linear_cross_entropy_bwd,
        rms_norm_fwd,
        rms_norm_bwd,
        rope_fwd,
        rope_bwd,
        softmax_fwd,
        softmax_bwd,
        swiglu_fwd,
        swiglu_bwd,
    )
}
