"""A whole model's gradients against central differences of its loss, in float64.

The gradients are the training pass's. The loss that is differenced comes from the other way through the model: the
forward pass that generation takes, then cross-entropy over all logits at once.
"""

import numpy as np

from xplm.backend import Backend
from xplm.config import DecoderConfig
from xplm.models.decoder import forward, param_specs
from xplm.models.head import IGNORE_INDEX
from xplm.models.training import loss_and_grads
from xplm.numerics.gradient_check import GradientError, check_gradients
from xplm.numerics.tiny_models import draw_params
from xplm.progress import OnProgress, unseen
from xplm.runtime import make_runtime
from xplm.typing import Params

ROWS, LENGTH = 2, 6


def check_model(
    backend: Backend,
    kernels: str,
    config: DecoderConfig,
    *,
    entries: int | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    recompute: bool = False,
    seed: int = 0,
    progress: OnProgress = unseen,
) -> list[GradientError]:
    """Every parameter of a model, on a small batch with padding and unscored targets.

    Args:
        backend: where to compute.
        kernels: "fused" or "portable".
        config: the model's; its parameters are drawn anew.
        entries: numbers of each parameter to differentiate at, drawn at random; None: all. Each costs four passes.
        label_smoothing: as `loss_and_grads` takes it.
        z_loss: likewise.
        recompute: likewise.
        seed: of parameters, batch and entries.
        progress: called with the parameters done so far.

    Returns:
        One error a parameter.
    """
    rt = make_runtime(backend, "fp64", kernels)
    params = draw_params(param_specs(config), seed)

    rng = np.random.default_rng(seed)
    T = min(LENGTH, config.context_length)
    ids = rng.integers(0, config.vocab_size, (ROWS, T))
    targets = rng.integers(0, config.vocab_size, (ROWS, T))
    targets[1, T - T // 3 :] = IGNORE_INDEX  # the second row ends with padding
    targets[0, T // 2] = IGNORE_INDEX
    n_targets = int(np.sum(targets != IGNORE_INDEX))

    def on_device() -> Params:
        return {name: backend.from_host(array) for name, array in params.items()}

    def loss() -> float:
        logits = forward(rt, config, on_device(), backend.from_host(ids))
        losses, _ = rt.ops.cross_entropy_fwd(
            rt.backend.xp.reshape(logits, (-1, config.vocab_size)),
            backend.from_host(targets.reshape(-1)),
            ignore_index=IGNORE_INDEX,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
        )
        return float(np.sum(backend.to_host(losses))) / n_targets

    _, gradients = loss_and_grads(
        rt,
        config,
        on_device(),
        backend.from_host(ids),
        backend.from_host(targets),
        n_targets=n_targets,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        recompute=recompute,
    )
    on_host = {name: backend.to_host(gradients[name]) for name in params}
    return check_gradients(loss, params, on_host, entries=entries, seed=seed, progress=progress)
