"""Faults to plant for parity in routers, expert products and their gates."""

from tests.numerics.expert_mutations import EXPERTS as MUTATIONS
from tests.numerics.parity.arithmetic_faults import K, L, PlantedFault, op_fault

FORWARD = (
    "weights divided by their sum on the way back alone",
    "softmax over the chosen, where it runs over all",
    "every expert's rows begin at the first",
)
"""Of the mutations, those that change what the forward pass gives."""


def located(mutation):
    """A wrong op, which the op alone shows."""
    fault = op_fault(mutation)
    if mutation.says in FORWARD:
        return fault._replace(place=fault.place.replace("backward", "forward"))
    return fault


EXPERTS = [
    *(located(mutation) for mutation in MUTATIONS if mutation.check.startswith("op ")),
    PlantedFault(
        "weights are not divided by their sum",
        f"{K}/router.py",
        "w = w / (xp.sum(w, axis=1, keepdims=True, dtype=island) + SMALLEST)",
        "w = w / 1.0",
        "mixtral",
        "router forward",
    ),
    PlantedFault(
        "the worst experts are chosen",
        f"{K}/router.py",
        "argsort(-s, axis=-1, stable=True)",
        "argsort(s, axis=-1, stable=True)",
        "mixtral",
        "and router forward at model.layers.0.mlp.gate",
        shared=False,
    ),
    PlantedFault(
        "the correction is in the weights, too",
        f"{L}/experts.py",
        "weights, router_saved = rt.ops.router_fwd(\n        logits,",
        "weights, router_saved = rt.ops.router_fwd(\n"
        '        logits + params.get(f"{name}.{CORRECTION}", 0.0),',
        "glm4_moe",
        "and router forward at model.layers.1.mlp.gate",
        shared=False,
    ),
    PlantedFault(
        "weights multiply what experts read",
        f"{L}/experts.py",
        "rows = xp.take(tokens, owners, axis=0)",
        "rows = xp.take(tokens * cast(weights[:, :1], tokens.dtype), owners, axis=0)",
        "mixtral",
        "and expert_linear forward at model.layers.0.mlp.experts.gate_proj",
        shared=False,
    ),
]
