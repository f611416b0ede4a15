"""Which layer each spec stands for: the one place where a kind of layer is chosen."""

from collections.abc import Callable
from typing import Any, NamedTuple

from xplm.gradients import Gradients
from xplm.layers.attention import attention_layer_bwd, attention_layer_fwd, attention_specs
from xplm.layers.context import Context
from xplm.layers.experts import experts_bwd, experts_fwd, experts_specs
from xplm.layers.latent_attention import (
    latent_attention_layer_bwd,
    latent_attention_layer_fwd,
    latent_attention_specs,
)
from xplm.layers.mlp import mlp_bwd, mlp_fwd, mlp_specs
from xplm.params import Init, ParamSpec
from xplm.runtime import Runtime
from xplm.specs import AttentionSpec, ExpertsSpec, LatentAttentionSpec, MLPSpec
from xplm.typing import Array, Params


class Layer(NamedTuple):
    """A kind of layer; the spec comes after the runtime, parameters are named after `name`."""

    specs: Callable[[Any, str, int, Init], list[ParamSpec]]  # (spec, name, C, init)
    fwd: Callable[[Runtime, Any, Params, str, Array, Context], tuple[Array, Any]]  # y, saved
    bwd: Callable[
        [Runtime, Any, str, Array, Any, Gradients], Array
    ]  # (..., dy, saved, grads) -> dx


LAYERS: dict[type, Layer] = {
    AttentionSpec: Layer(attention_specs, attention_layer_fwd, attention_layer_bwd),
    LatentAttentionSpec: Layer(
        latent_attention_specs, latent_attention_layer_fwd, latent_attention_layer_bwd
    ),
    MLPSpec: Layer(mlp_specs, mlp_fwd, mlp_bwd),
    ExpertsSpec: Layer(experts_specs, experts_fwd, experts_bwd),
}
