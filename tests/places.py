"""The places that kernels are tested on: array libraries, address spaces and dtypes."""

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from tests.on_backends import on

LOCATIONS = {
    "numpy": ("numpy", "cpu"),
    "torch": ("torch", "cpu"),
    "jax": ("jax", "cpu"),
    "strict": ("strict", "cpu"),
    "strict-device1": ("strict", "cuda"),
    "cupy": ("cupy", "cuda"),
}
"""By name, a backend and a device."""

DTYPES = {
    "numpy": ("float64", "float32", "float16", "bfloat16"),
    "torch": ("float64", "float32", "float16", "bfloat16"),
    "jax": ("float32",),  # it compiles each op for each shape; narrow dtypes are left to parity
    "strict": ("float64", "float32"),
    "strict-device1": ("float64", "float32"),
    "cupy": ("float64", "float32", "float16", "bfloat16"),
}


def parameter(location: str, *rest: Any) -> Any:
    """A parameter set for the fixtures `backend` and `place`, marked with its backend."""
    name = "-".join((location, *map(str, rest)))
    return pytest.param((location, *rest), id=name, marks=on(LOCATIONS[location][0]))


def on_places(
    names: str | Sequence[str], cases: Iterable[Any], *, elsewhere: Any
) -> pytest.MarkDecorator:
    """Parametrize a test of one kernel: every case in every dtype of NumPy, one case in every other place.

    Args:
        names: of the test's parameters besides `place`.
        cases: their values: one value each for one name, a tuple for several.
        elsewhere: the case that runs on the other libraries, an odd one.
    """
    names, several = ([names], False) if isinstance(names, str) else (list(names), True)
    cases = list(cases)
    assert elsewhere in cases, "the case for the other libraries runs on NumPy too"
    sets = []
    for location in LOCATIONS:
        for dtype in DTYPES[location]:
            for case in cases if location == "numpy" else [elsewhere]:
                values = case if several else (case,)
                place = parameter(location, dtype)
                label = "-".join([place.id, *(str(value) for value in values)])
                sets.append(pytest.param(*place.values, *values, id=label, marks=place.marks))
    return pytest.mark.parametrize(("place", *names), sets, indirect=["place"])
