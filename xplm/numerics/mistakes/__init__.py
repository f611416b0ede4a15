"""How each op goes wrong: one chain an op, with its known mistakes, and the table of them."""

from xplm.numerics.mistakes.activations import DROPOUT, GELU, SWIGLU
from xplm.numerics.mistakes.attention import ATTENTION, SOFTMAX
from xplm.numerics.mistakes.chain import Chain
from xplm.numerics.mistakes.composites import MLP, RESIDUAL, SELF_ATTENTION, TIED_EMBEDDING
from xplm.numerics.mistakes.experts import (
    CLAMPED_SWIGLU,
    EXPERT_LINEAR,
    EXPERT_SUM,
    ROUTER,
    SIGMOID_GATE,
)
from xplm.numerics.mistakes.linear import EMBEDDING, LINEAR
from xplm.numerics.mistakes.losses import CROSS_ENTROPY, LINEAR_CROSS_ENTROPY, MEAN_CROSS_ENTROPY
from xplm.numerics.mistakes.norms import LAYER_NORM, RMS_NORM
from xplm.numerics.mistakes.relu import GELU_ERF, RELU, RELU2
from xplm.numerics.mistakes.rope import ROPE

CHAINS: dict[str, Chain] = {
    "embedding": EMBEDDING,
    "linear": LINEAR,
    "rms_norm": RMS_NORM,
    "layer_norm": LAYER_NORM,
    "rope": ROPE,
    "softmax": SOFTMAX,
    "attention": ATTENTION,
    "swiglu": SWIGLU,
    "gelu": GELU,
    "gelu_erf": GELU_ERF,
    "relu": RELU,
    "relu2": RELU2,
    "clamped_swiglu": CLAMPED_SWIGLU,
    "sigmoid_gate": SIGMOID_GATE,
    "router": ROUTER,
    "expert_linear": EXPERT_LINEAR,
    "expert_sum": EXPERT_SUM,
    "dropout": DROPOUT,
    "cross_entropy": CROSS_ENTROPY,
    "linear_cross_entropy": LINEAR_CROSS_ENTROPY,
    "mean_cross_entropy": MEAN_CROSS_ENTROPY,
    "self_attention": SELF_ATTENTION,
    "mlp": MLP,
    "residual": RESIDUAL,
    "tied_embedding": TIED_EMBEDDING,
}
"""Every op that `xplm grade` knows: those of OPS, and a few layers."""
