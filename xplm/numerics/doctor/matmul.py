"""Matrix products: whether they work, in how many bits they add up, and what dtype they give back.

Operands are small integers, so that every product and partial sum is exact in any of the dtypes and in any order.

How wide the accumulator is shows in

    64 * 1 + 64 * t + 64 * (-1),     t = 2^-2k

which is 64 t if t survives beside the ones: in 2k + 7 bits at most, in 2k + 1 at least, whatever blocks the sum is
split into, for its three parts are as long as these and no block adds up tiny terms alone. t is the product of two
numbers 2^-k, which every dtype here holds, as it does the result. An accumulator in float32 keeps t = 2^-16 in any
order; one in float16 or bfloat16 loses it in every order.
"""

import numpy as np

from xplm.backend import Backend
from xplm.numerics.doctor.numbers import dtype_name, first_wrong, get, put
from xplm.numerics.doctor.probe import FLOATS, Answer, Probe, for_each, gap, good

THEME = "matrix products"

TERMS = 64
"""Of each of the three parts of the sum."""

FLOAT32_K = 8
"""2 k + 7 <= 24, the bits of float32; float16's 11 end at 2 k + 1."""

MAX_K = 10
"""64 t = 2^-14 is float16's smallest normal number."""

SHAPES = {
    "2-D": (((8, 48), (48, 5)),),
    "batched": (((3, 8, 16), (3, 16, 5)), ((2, 2, 3, 4, 8), (2, 2, 1, 8, 6))),
}
"""Operands' shapes by kind; the last is that of attention, where keys are broadcast over query heads."""


def product(backend: Backend, dtype: str, kind: str) -> Answer:
    """x @ y of small integers, y as it is and as a transpose's view."""
    xp = backend.xp
    for x_shape, y_shape in SHAPES[kind]:
        rng = np.random.default_rng(0)
        x, y = rng.integers(-2, 3, x_shape), rng.integers(-2, 3, y_shape)
        on_device = put(backend, x, dtype), put(backend, y, dtype)
        transposed = xp.matrix_transpose(put(backend, np.swapaxes(y, -1, -2), dtype))
        for right_operand in (on_device[1], transposed):
            wrong = first_wrong(get(backend, on_device[0] @ right_operand), x @ y)
            if wrong:
                return gap(f"{x_shape} @ {y_shape}: {wrong}")
    return good("right")


def accumulator(backend: Backend, dtype: str) -> Answer:
    """How small a term the sums of x @ y keep, 2-D and batched: see above."""
    ks = np.arange(1, MAX_K + 1)
    tiny = np.ldexp(1.0, -ks)[:, None] * np.ones(TERMS)  # (ks, TERMS)
    ones = np.ones((len(ks), TERMS))
    x = put(backend, np.concatenate([ones, tiny, ones], axis=1), dtype)
    y = put(backend, np.concatenate([ones, tiny, -ones], axis=1).T, dtype)
    for kind, (a, b) in {"2-D": (x, y), "batched": (x[None, ...], y[None, ...])}.items():
        # Row i times column i is the sum of the i-th k.
        sums = np.diagonal(get(backend, a @ b), axis1=-2, axis2=-1).reshape(-1)
        kept = sums == TERMS * np.ldexp(1.0, -2 * ks)
        if not kept[:FLOAT32_K].all():
            lost = 2 * int(ks[np.argmin(kept)])
            return gap(f"{kind}: 2^-{lost} is lost beside 1", lost_exponent=-lost)
    return good("float32's bits are kept")


def operands(backend: Backend, dtype: str) -> Answer:
    """x @ I is x, to the last bit: operands are not rounded to TF32 or bfloat16 on the way."""
    x = np.random.default_rng(0).standard_normal((16, 16)).astype(dtype)
    wrong = first_wrong(get(backend, backend.from_host(x) @ put(backend, np.eye(16), dtype)), x)
    return gap(f"operands are rounded: {wrong}") if wrong else good("operands keep all bits")


def result_dtype(backend: Backend, dtype: str) -> Answer:
    """The dtype of x @ y."""
    x = put(backend, np.ones((2, 2)), dtype)
    name = dtype_name(backend, x @ x)
    found = f"{dtype} @ {dtype} gives {name}"
    return good(found) if name == dtype else gap(found)


PROBES: list[Probe] = [
    *for_each(FLOATS, "product, 2-D", THEME, "the right sums", product, "wide products", kind="2-D"),
    *for_each(
        FLOATS, "product, batched", THEME, "the right sums", product, "wide products", kind="batched"
    ),
    *for_each(
        FLOATS, "product's sums", THEME, "added up in float32 at least", accumulator, "wide products"
    ),
    *for_each(("float32",), "product's operands", THEME, "x @ I is x, to the bit", operands),
    *for_each(
        FLOATS, "product's dtype", THEME, "that of its operands", result_dtype, "cast outputs",
        serves=FLOATS,
    ),
]  # fmt: skip
