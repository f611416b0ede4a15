"""Reductions: maxima over infinities, arg-max, and sums of many numbers.

Libraries begin a maximum at the lowest number that they think there is; where that is the lowest finite one, a row of
-inf gives it, and not -inf. Lengths are those at which libraries change from one implementation to another.
"""

import numpy as np

from xplm.backend import Backend
from xplm.numerics.doctor.numbers import first_wrong, get, put
from xplm.numerics.doctor.probe import FLOATS, Answer, Probe, for_each, gap, good

THEME = "reductions"

LENGTHS = (1, 2, 33, 1025)
MANY = 4096


def _rows(length: int) -> dict[str, np.ndarray]:
    """Rows (3, length) to take the maximum of, by what is particular about them."""
    falling = -1.0 - np.arange(3 * length, dtype=np.float64).reshape(3, length) % 61
    some = np.where(np.arange(length) % 2 == 0, -np.inf, falling)
    return {
        "rows of -inf": np.full((3, length), -np.inf),
        "rows with -inf": some,
        "rows of negative numbers": falling,
        "rows with inf": -some,
    }


def extremes(backend: Backend, dtype: str) -> Answer:
    """max and min along the last axis and over all."""
    xp = backend.xp
    for name, function in (("max", np.max), ("min", np.min)):
        for length in LENGTHS:
            for says, host in _rows(length).items():
                host = host if name == "max" else -host
                x = put(backend, host, dtype)
                of = says if name == "max" else f"minus {says}"
                for axis in (-1, None):
                    found = get(backend, getattr(xp, name)(x, axis=axis))
                    wrong = first_wrong(found, function(host, axis=axis))
                    if wrong:
                        return gap(f"{name} of {of}, length {length}: {wrong}")
    return good("right")


def arg_extremes(backend: Backend, dtype: str) -> Answer:
    """argmax and argmin along the last axis; of equal numbers, the first."""
    xp = backend.xp
    for name, function in (("argmax", np.argmax), ("argmin", np.argmin)):
        for length in LENGTHS:
            cases = _rows(length) | {"rows of equals": np.ones((3, length))}
            for says, host in cases.items():
                host = host if name == "argmax" else -host
                of = says if name == "argmax" else f"minus {says}"
                found = get(backend, getattr(xp, name)(put(backend, host, dtype), axis=-1))
                wrong = first_wrong(found, function(host, axis=-1))
                if wrong:
                    return gap(f"{name} of {of}, length {length}: {wrong}")
    return good("right, the first of equals")


def total(backend: Backend, dtype: str) -> Answer:
    """The sum of 4096 ones is 4096, and their mean 1."""
    x = put(backend, np.ones(MANY), dtype)
    found = float(get(backend, backend.xp.sum(x)))
    mean = float(get(backend, backend.xp.mean(x)))
    if found != MANY or mean != 1.0:
        return gap(f"{MANY} ones sum to {found:g}, and have the mean {mean:g}", sum=found)
    return good("right", sum=found)


PROBES: list[Probe] = [
    *for_each(
        FLOATS, "max and min", THEME, "-inf and inf are numbers like others", extremes,
        "no infinity in maxima", serves=FLOATS,
    ),
    *for_each(
        FLOATS, "argmax and argmin", THEME, "-inf like others; the first of equals", arg_extremes,
        "choice on the host", serves=FLOATS,
    ),
    *for_each(FLOATS, "sum of many", THEME, "4096 ones sum to 4096", total, "wide arithmetic"),
]  # fmt: skip
