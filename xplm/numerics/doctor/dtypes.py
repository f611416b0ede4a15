"""Dtypes: whether they are there, and whether results keep them."""

import numpy as np

from xplm.backend import Backend
from xplm.numerics.doctor.numbers import dtype_name, put
from xplm.numerics.doctor.probe import FLOATS, HALVES, Answer, Probe, for_each, gap, good
from xplm.typing import Array

THEME = "dtypes"


def presence(backend: Backend, dtype: str) -> Answer:
    """Whether the library has the dtype."""
    return good("there") if dtype in backend.dtypes else gap("not there")


def beside_a_number(backend: Backend, dtype: str) -> Answer:
    """x * 2.0, 2.0 * x, x + 1 have x's dtype."""
    x = put(backend, np.ones(3), dtype)
    results = {"x * 2.0": x * 2.0, "2.0 * x": 2.0 * x, "x + 1.0": x + 1.0}
    return _kept(backend, dtype, results)


def functions(backend: Backend, dtype: str) -> Answer:
    """What functions of x give has x's dtype."""
    xp, x = backend.xp, put(backend, np.ones(3), dtype)
    results = {
        "x + x": x + x,
        "exp(x)": xp.exp(x),
        "sum(x)": xp.sum(x),
        "mean(x)": xp.mean(x),
        "max(x)": xp.max(x),
        "where(x > 0, x, x)": xp.where(x > 0, x, x),
        "concat([x, x])": xp.concat([x, x]),
    }
    return _kept(backend, dtype, results)


def _kept(backend: Backend, dtype: str, results: dict[str, Array]) -> Answer:
    drifts = [
        f"{says} gives {name}"
        for says, result in results.items()
        if (name := dtype_name(backend, result)) != dtype
    ]
    return gap("; ".join(drifts)) if drifts else good("kept")


PROBES: list[Probe] = [
    probe._replace(needs_dtype=False)
    for probe in for_each(HALVES, "present", THEME, "the dtype is there", presence, "emulation")
]

DRIFT: list[Probe] = [
    *for_each(
        FLOATS, "beside a Python number", "dtype of results", "x * 2.0 has x's dtype",
        beside_a_number, "cast outputs", serves=FLOATS,
    ),
    *for_each(
        FLOATS, "through functions", "dtype of results", "functions keep x's dtype",
        functions, "cast outputs", serves=FLOATS,
    ),
]  # fmt: skip
