"""Fused kernels: numba in place of NumPy, under the names and signatures of `xplm.kernels` and `xplm.train`.

What a fused kernel does not take on (another dtype, an island given up) it hands to its portable twin of the same name.
"""

from collections.abc import Callable
from typing import Any

from xplm_numpy.kernels import invariant
from xplm_numpy.kernels.absorbed_attention import absorbed_attention
from xplm_numpy.kernels.adafactor import adafactor_rule
from xplm_numpy.kernels.adamw import adam_rule, adamw_rule
from xplm_numpy.kernels.add_rms_norm import add_rms_norm_bwd, add_rms_norm_fwd
from xplm_numpy.kernels.attention import attention_bwd, attention_fwd
from xplm_numpy.kernels.bind_blocks import bind_blocks
from xplm_numpy.kernels.cached_attention import cached_attention
from xplm_numpy.kernels.clip import clip_by_global_norm
from xplm_numpy.kernels.cross_entropy import cross_entropy_bwd, cross_entropy_fwd
from xplm_numpy.kernels.dropout import dropout_bwd, dropout_fwd
from xplm_numpy.kernels.embedding import embedding_bwd
from xplm_numpy.kernels.expert_linear import expert_linear_bwd, expert_linear_fwd
from xplm_numpy.kernels.expert_sum import expert_sum_bwd, expert_sum_fwd
from xplm_numpy.kernels.gelu import gelu_bwd, gelu_fwd
from xplm_numpy.kernels.layer_norm import layer_norm_bwd, layer_norm_fwd
from xplm_numpy.kernels.linear import linear_bwd, linear_fwd
from xplm_numpy.kernels.linear_cross_entropy import (
    linear_cross_entropy_bwd,
    linear_cross_entropy_fwd,
)
from xplm_numpy.kernels.lion import lion_rule
from xplm_numpy.kernels.muon import muon_rule
from xplm_numpy.kernels.norm_attention_residual import norm_attention_residual
from xplm_numpy.kernels.norm_mlp_residual import norm_mlp_residual
from xplm_numpy.kernels.rms_norm import rms_norm_bwd, rms_norm_fwd
from xplm_numpy.kernels.rope import rope_bwd, rope_fwd
from xplm_numpy.kernels.router import router_bwd, router_fwd
from xplm_numpy.kernels.sgd import sgd_rule
from xplm_numpy.kernels.softmax import softmax_bwd, softmax_fwd
from xplm_numpy.kernels.swiglu import swiglu_bwd, swiglu_fwd

FUSED: dict[str, Callable[..., Any]] = {
    kernel.__name__: kernel
    for kernel in (
        attention_fwd,
        attention_bwd,
        cross_entropy_fwd,
        cross_entropy_bwd,
        dropout_fwd,
        dropout_bwd,
        embedding_bwd,
        expert_linear_fwd,
        expert_linear_bwd,
        expert_sum_fwd,
        expert_sum_bwd,
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
        router_fwd,
        router_bwd,
        softmax_fwd,
        softmax_bwd,
        swiglu_fwd,
        swiglu_bwd,
        add_rms_norm_fwd,
        add_rms_norm_bwd,
        cached_attention,
        absorbed_attention,
        norm_attention_residual,
        norm_mlp_residual,
        bind_blocks,
    )
}

INVARIANT: dict[str, Callable[..., Any]] = FUSED | invariant.INVARIANT

FUSED_RULES: dict[str, Callable[..., Any]] = {
    rule.__name__: rule
    for rule in (
        adafactor_rule,
        adam_rule,
        adamw_rule,
        lion_rule,
        muon_rule,
        sgd_rule,
        clip_by_global_norm,
    )
}
