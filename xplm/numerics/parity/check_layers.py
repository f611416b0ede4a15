"""Every layer, forward and backward, on the configurations that between them take every branch."""

from typing import Any

import numpy as np

from xplm.gradients import Gradients
from xplm.models.decoder import make_context, param_specs
from xplm.numerics.check_layers import LAYERS, VARIANTS, B, T
from xplm.numerics.parity.compare import DRAWS, Comparison, compare
from xplm.numerics.parity.rounded import Numbers
from xplm.numerics.tiny_models import draw_params, tiny_config
from xplm.runtime import Runtime
from xplm.typing import Array


def check_layer(
    test: Runtime,
    reference: Runtime,
    name: str,
    variant: str,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Comparison:
    """One layer under one configuration.

    Args:
        test: the runtime under test.
        reference: a float64 runtime.
        name: of LAYERS.
        variant: of VARIANTS.
        draws: as `compare` takes it.
        seed: of parameters, input and perturbations.
    """
    config = tiny_config(VARIANTS[variant])
    rng = np.random.default_rng(seed)
    numbers = Numbers(test)
    params = numbers.rounded(draw_params(param_specs(config), seed), "param")
    x = numbers.rounded({"x": rng.standard_normal((B, T, config.hidden_size))}, "compute")["x"]
    dy = rng.standard_normal(
        (B, T, max(config.hidden_size, config.blocks[0].mlp.intermediate_size))
    )

    def work(rt: Runtime, name_params: Any) -> dict[str, Array]:
        context = make_context(rt, config, T)
        pair = LAYERS[name](rt, config, context)
        own = {key: array for key, array in params.items() if key.startswith(pair.prefix)}
        on_device = numbers.put(rt, own, "param")
        name_params(on_device)
        y, saved = pair.forward(on_device, numbers.put(rt, {"x": x}, "compute")["x"])
        given = numbers.rounded({"dy": dy[..., : y.shape[-1]]}, "compute")
        grads = Gradients()
        dx = pair.backward(numbers.put(rt, given, "compute")["dy"], saved, grads)
        inputs = {} if dx is None else {"dx": dx}
        return {"y": y} | inputs | {f"d{key}": gradient for key, gradient in grads.found.items()}

    return compare(work, test, reference, draws=draws, seed=seed)
