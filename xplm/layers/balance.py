"""The load-balancing loss of all routers of a pass.

    loss = coefficient * E * sum_e F_e P_e

F_e is the number of times that expert e was chosen and P_e its mean softmax score, both over all tokens of all routed
layers together; F is divided by the number of tokens. It is least where all experts are chosen equally often.

Gradient. F is piecewise constant, and each of the L layers has an equal part in P: with P = mean_l P_l,

    dP_l,e = coefficient * E * F_e / L

which a layer can take only when the last one has been chosen for, in the backward pass.

Source: Fedus, Zoph and Shazeer, "Switch Transformers", arXiv:2101.03961, equations 4 to 6; over all layers together, as
transformers' load_balancing_loss_func has it.
"""

import numpy as np

from xplm.precision import cast, wide_dtype
from xplm.runtime import Runtime
from xplm.typing import Array


class Balance:
    """The loads of the experts of one pass, by layer: a recomputed layer takes its own place again."""

    def __init__(self) -> None:
        """No layer yet."""
        self._loads: dict[int, np.ndarray] = {}  # (E,) chosen a token
        self._means: dict[int, Array] = {}  # (E,) of the scores
        self._coefficient = 0.0

    def add(self, layer: int, load: np.ndarray, mean: Array, coefficient: float) -> None:
        """Take what a routed layer found.

        Args:
            layer: its number.
            load: how often each expert was chosen, over the tokens (E,).
            mean: mean of its softmax scores (E,).
            coefficient: of the loss, the same in all layers.
        """
        self._loads[layer], self._means[layer] = load, mean
        self._coefficient = coefficient

    def loss(self, rt: Runtime) -> Array | None:
        """The loss, 0-D; None where no layer has added to it."""
        if not self._means:
            return None
        xp = rt.backend.xp
        means = xp.stack(list(self._means.values()))  # (L, E)
        return xp.sum(means * self.dmean(rt))

    def dmean(self, rt: Runtime) -> Array:
        """The gradient with respect to a layer's mean scores (E,), in their dtype."""
        load = np.mean(list(self._loads.values()), axis=0)
        host = self._coefficient * len(load) * load / len(self._loads)
        dtype = wide_dtype(next(iter(self._means.values())), rt.backend.xp)
        wide = np.float64 if rt.host_dtype.softmax == np.float64 else np.float32
        return cast(rt.backend.from_host(host.astype(wide)), dtype)
