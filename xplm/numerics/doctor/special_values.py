"""NaN, infinities and subnormal numbers."""

import numpy as np

from xplm.backend import Backend
from xplm.numerics.doctor.numbers import first_wrong, get, put, smallest_normal
from xplm.numerics.doctor.probe import FLOATS, Answer, Probe, for_each, gap, good

THEME = "special values"

NAN, INF = float("nan"), float("inf")


def subnormals(backend: Backend, dtype: str) -> Answer:
    """Numbers below the smallest normal one survive x * 1, x + 0, and come out of a halving."""
    normal = smallest_normal(dtype)
    x = put(backend, [normal / 2, -normal / 4], dtype)
    one, zero = put(backend, [1.0, 1.0], dtype), put(backend, [0.0, 0.0], dtype)
    half = put(backend, [0.5, 0.5], dtype)
    results = {
        "x * 1": (x * one, [normal / 2, -normal / 4]),
        "x + 0": (x + zero, [normal / 2, -normal / 4]),
        "x / 2": (put(backend, [normal, -normal], dtype) * half, [normal / 2, -normal / 2]),
    }
    flushed = [
        says for says, (found, right) in results.items() if first_wrong(get(backend, found), right)
    ]
    return gap(f"flushed to zero: {', '.join(flushed)}") if flushed else good("kept")


def not_a_number(backend: Backend, dtype: str) -> Answer:
    """max and min give NaN, argmax its place, sort puts it last: as NumPy does, for the standard does not say."""
    xp, host = backend.xp, np.array([3.0, NAN, 5.0, -INF])
    x = put(backend, host, dtype)
    results = {
        "max": (xp.max(x), NAN),
        "min": (xp.min(x), NAN),
        "argmax": (xp.argmax(x), 1),
        "argmin": (xp.argmin(x), 1),
        "sort": (xp.sort(x), np.sort(host)),
    }
    wrong = [
        says for says, (found, right) in results.items() if first_wrong(get(backend, found), right)
    ]
    return gap(f"NaN is not seen by {', '.join(wrong)}") if wrong else good("seen by all")


def infinities(backend: Backend, dtype: str) -> Answer:
    """exp(-inf) is 0 and log(0) is -inf, and what a mask leaves out does not matter."""
    xp = backend.xp
    x = put(backend, [-INF, 0.0, NAN], dtype)
    zero = put(backend, np.zeros(3), dtype)
    hidden = backend.from_host(np.array([False, False, True]))
    results = {
        "exp(-inf), exp(0)": (xp.exp(x)[:2], [0.0, 1.0]),
        "log(0)": (xp.log(zero), [-INF] * 3),
        "a masked NaN": (xp.where(hidden, zero, x), [-INF, 0.0, 0.0]),
    }
    for says, (found, right) in results.items():
        wrong = first_wrong(get(backend, found), right)
        if wrong:
            return gap(f"{says}: {wrong}")
    return good("right")


PROBES: list[Probe] = [
    *for_each(
        FLOATS, "subnormals", THEME, "kept", subnormals, "small numbers count as zero",
        serves=FLOATS,
    ),
    *for_each(
        FLOATS, "NaN", THEME, "max, argmax and sort see it", not_a_number, "NaN told elsewhere",
        serves=FLOATS,
    ),
    *for_each(FLOATS, "exp(-inf), log(0)", THEME, "0 and -inf", infinities, "wide arithmetic"),
]  # fmt: skip
