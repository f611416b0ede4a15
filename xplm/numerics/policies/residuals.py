"""The residual stream, read off a model that knows nothing of it.

Every block begins with a norm of the stream, and the model ends with one. Layers reach kernels through the runtime's
table only, and a kernel that begins with a norm is given the stream and then the norm's weight; so kernels that are
wrapped there see the stream pass, and the weight says where:

    depth 0     after the embedding
    depth i     after block i, for i = 1 .. L
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from xplm.config import DecoderConfig
from xplm.runtime import Runtime
from xplm.typing import Array, Params


def stream_norms(config: DecoderConfig) -> list[str]:
    """The weights that the stream of depth 0 .. L meets first."""
    blocks = [f"model.layers.{i}.input_layernorm.weight" for i in range(config.num_hidden_layers)]
    return [*blocks, "model.norm.weight"]


def tapped(rt: Runtime, config: DecoderConfig, params: Params) -> tuple[Runtime, dict[int, Array]]:
    """A runtime that notes the residual stream.

    Args:
        rt: what computes.
        config: the model's.
        params: the very arrays that the model will be given.

    Returns:
        The runtime, and what its last pass left: by depth, (B, T, C) in the dtype and on the device it came in.
    """
    depths = {id(params[name]): depth for depth, name in enumerate(stream_norms(config))}
    stream: dict[int, Array] = {}

    def tap(kernel: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arrays: Array, **options: Any) -> Any:
            if len(arrays) > 1 and id(arrays[1]) in depths:
                stream[depths[id(arrays[1])]] = arrays[0]
            return kernel(*arrays, **options)

        return call

    kernels = {name: tap(kernel) for name, kernel in rt.kernels.items()}
    return replace(rt, kernels=kernels), stream
