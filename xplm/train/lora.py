"""Low-rank adapters: what is trained in the place of a model's matrices.

    W' = W + B A          A (R, C) random, B (N, R) zero at first, W frozen

For each projection of a block, whose branch in `xplm.layers.linear` runs where the parameters hold A and B. A model of
width C learns R (C + N) numbers instead of C N, so that gradients and moments are small as well. The published factor
alpha / R is 1 here: a learning rate does what it would do.

Source: Hu et al., "LoRA", arXiv:2106.09685, section 4.1; A as PEFT draws it, with standard deviation 1 / sqrt(3 C).
"""

from collections.abc import Mapping

from xplm.errors import RequestError
from xplm.params import ParamSpec

PROJECTIONS = ("_proj.weight", "_proj_with_mqa.weight")
"""How the name of a matrix that gets an adapter ends: q, k, v, o, gate, up and down, and those of latents; each
expert of a stack (E, N, C) has its own, A (E, R, C) and B (E, N, R)."""


def adapter_specs(specs: Mapping[str, ParamSpec], rank: int) -> dict[str, ParamSpec]:
    """The parameters of the adapters of a model.

    Args:
        specs: the model's own.
        rank: R.

    Raises:
        RequestError: the rank is not below the width of every matrix, and so saves nothing.
    """
    matrices = {name: spec for name, spec in specs.items() if name.endswith(PROJECTIONS)}
    least = min(min(spec.shape[-2:]) for spec in matrices.values())
    if not 1 <= rank < least:
        raise RequestError(
            f"an adapter's rank must be at least 1 and below {least}, the least width of a matrix; got {rank}"
        )

    adapters: dict[str, ParamSpec] = {}
    for name, spec in matrices.items():
        *stack, outputs, inputs = spec.shape
        layer = name.removesuffix(".weight")
        a, b = f"{layer}.lora_A.weight", f"{layer}.lora_B.weight"
        adapters[a] = ParamSpec(a, (*stack, rank, inputs), "normal", (3 * inputs) ** -0.5)
        adapters[b] = ParamSpec(b, (*stack, outputs, rank), "zeros")
    return adapters
