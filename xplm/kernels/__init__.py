"""Every kernel, one op a file, and the table of their portable forms by function name."""

from collections.abc import Callable
from typing import Any

from xplm.kernels.attention import attention_fwd
from xplm.kernels.embedding import embedding_fwd
from xplm.kernels.gelu import gelu_fwd
from xplm.kernels.layer_norm import layer_norm_fwd
from xplm.kernels.linear import linear_fwd
from xplm.kernels.rms_norm import rms_norm_fwd
from xplm.kernels.rope import rope_fwd
from xplm.kernels.softmax import softmax_fwd
from xplm.kernels.swiglu import swiglu_fwd

PORTABLE: dict[str, Callable[..., Any]] = {
    kernel.__name__: kernel
    for kernel in (
        attention_fwd,
        embedding_fwd,
        gelu_fwd,
        layer_norm_fwd,
        linear_fwd,
        rms_norm_fwd,
        rope_fwd,
        softmax_fwd,
        swiglu_fwd,
    )
}
