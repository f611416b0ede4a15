"""Mistakes to plant in activations."""

from tests.numerics.mutations import K, Mutation

ACTIVATIONS = [
    Mutation(
        "gelu's cubic without its 3",
        f"{K}/gelu.py",
        "(1.0 + 3.0 * CUBIC * xw * xw)",
        "(1.0 + CUBIC * xw * xw)",
        "op gelu",
    ),
    Mutation(
        "tanh' = 1 - tanh",
        f"{K}/gelu.py",
        "(1.0 - t * t)",
        "(1.0 - t)",
        "op gelu",
    ),
    Mutation(
        "the exact gelu's density without its x",
        f"{K}/gelu_erf.py",
        "share + xw * (DENSITY * e)",
        "share + DENSITY * e",
        "op gelu_erf",
    ),
    Mutation(
        "the share of the other side",
        f"{K}/gelu_erf.py",
        "xp.where(x < 0.0, tail, 1.0 - tail), e",
        "tail, e",
        "op gelu_erf",
    ),
    Mutation(
        "relu lets every gradient pass",
        f"{K}/relu.py",
        "xp.where(cast(x, wide) > 0.0, dyw, xp.zeros_like(dyw))",
        "dyw",
        "op relu",
    ),
    Mutation(
        "the square's derivative without its 2",
        f"{K}/relu2.py",
        "(2.0 * r)",
        "r",
        "op relu2",
    ),
    Mutation(
        "sigmoid' for silu'",
        f"{K}/swiglu.py",
        "s * (1.0 + g * (1.0 - s))\n    dup",
        "s * (1.0 - s)\n    dup",
        "op swiglu",
    ),
    Mutation(
        "dup gated by a sigmoid",
        f"{K}/swiglu.py",
        "dup = dyw * g * s",
        "dup = dyw * s",
        "op swiglu",
    ),
]
