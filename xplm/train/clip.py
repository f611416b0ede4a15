"""Clipping by the global norm: a step keeps its direction and loses what is too long of it.

    norm = sqrt(sum of g^2 over all numbers of all gradients)
    g    = g min(1, max_norm / norm)

One norm for all tensors together. Each by its own would turn the step, and a bound meant for millions of numbers would
never be met by the few of one tensor.

Source: Pascanu et al., "On the difficulty of training Recurrent Neural Networks", arXiv:1211.5063, algorithm 1.
"""

from xplm.namespace import array_namespace
from xplm.params import global_norm
from xplm.typing import Array, Params


def clip_by_global_norm(grads: Params, max_norm: float | None) -> tuple[Params, Array]:
    """Bound the global norm.

    Args:
        grads: every gradient of a step, by parameter name; wide.
        max_norm: the longest step, above 0; None: any.

    Returns:
        The gradients, and their norm before clipping, 0-D. Where it is not finite, neither are they.
    """
    norm = global_norm(grads)
    if max_norm is None:
        return grads, norm

    xp = array_namespace(norm)
    scale = max_norm / xp.maximum(norm, max_norm)  # min(1, max_norm / norm), and 1 where norm = 0
    return {name: grad * scale for name, grad in grads.items()}, norm
