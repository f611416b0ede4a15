"""Rows by number: taking them, adding to them, and putting numbers in order."""

import numpy as np

from xplm.backend import Backend
from xplm.numerics.doctor.numbers import first_wrong, get, put
from xplm.numerics.doctor.probe import FLOATS, Answer, Probe, absent, for_each, gap, good

THEME = "rows and order"

IDS = np.array([4, 0, 4, 299, 7, 0, 4])
N_ROWS = 300
MANY = 1000
"""Numbers to sort: short lists are sorted stably by libraries that are not stable."""

K = 5


def take(backend: Backend, dtype: str) -> Answer:
    """Rows of a table, some of them repeated."""
    table = np.arange(N_ROWS * 6).reshape(N_ROWS, 6) % 251
    found = backend.xp.take(put(backend, table, dtype), backend.from_host(IDS), axis=0)
    wrong = first_wrong(get(backend, found), table[IDS])
    return gap(wrong) if wrong else good("right")


def take_outside(backend: Backend, dtype: str) -> Answer:
    """A row that is not there is an error. Not asked on a GPU, where it can end the process."""
    if backend.device_name != "cpu":
        return absent("not asked: on a GPU it can end the process")
    table = put(backend, np.ones((3, 2)), dtype)
    try:
        found = get(backend, backend.xp.take(table, backend.from_host(np.array([3])), axis=0))
    except (IndexError, RuntimeError, ValueError):
        return good("an error")
    return gap(f"row 3 of 3 gives {found[0].tolist()}")


def scatter_add(backend: Backend, dtype: str) -> Answer:
    """table[ids] += 1 counts repeated ids each time."""
    table, ids = put(backend, np.zeros(5), dtype), backend.from_host(np.array([1, 3, 1, 1]))
    ones = put(backend, np.ones(4), dtype)
    added = backend.assign(table, ids, backend.xp.take(table, ids, axis=0) + ones)
    found = get(backend, added)
    if first_wrong(found, [0, 3, 0, 1, 0]):
        return gap(f"the standard has none: an id written 3 times counts {found[1]:g} times")
    return good("repeated ids add up")


def stable_sort(backend: Backend, dtype: str) -> Answer:
    """argsort keeps the order of equal numbers."""
    return _sort(backend, dtype)


def falling_sort(backend: Backend, dtype: str) -> Answer:
    """So it does from the largest down, which the standard has a keyword for."""
    return _sort(backend, dtype, descending=True)


def _sort(backend: Backend, dtype: str, **order: bool) -> Answer:
    host = np.random.default_rng(0).integers(0, 4, MANY).astype(np.float64)
    found = backend.xp.argsort(put(backend, host, dtype), stable=True, **order)
    wrong = first_wrong(get(backend, found), np.argsort(-host if order else host, stable=True))
    return gap(wrong) if wrong else good("stable")


def top_k(backend: Backend, dtype: str) -> Answer:
    """The k largest, of equals the first."""
    function = getattr(backend.xp, "top_k", getattr(backend.xp, "topk", None))
    if function is None:
        return gap("the standard has none, nor has this library's namespace")
    host = np.random.default_rng(0).integers(0, 4, MANY).astype(np.float64)
    values, indices = function(put(backend, host, dtype), K)
    right = np.argsort(-host, stable=True)[:K]
    if first_wrong(get(backend, values), host[right]):
        return gap("not the largest")
    wrong = first_wrong(get(backend, indices), right)
    return gap(f"not the first of equals: {wrong}") if wrong else good("the first of equals")


PROBES: list[Probe] = [
    *for_each(FLOATS, "take", THEME, "the rows that are asked for", take),
    *for_each(
        ("float32",), "take outside", THEME, "an error", take_outside,
        "ids checked at the border", serves=FLOATS,
    ),
    *for_each(
        FLOATS, "scatter-add", THEME, "repeated ids add up", scatter_add,
        "one-hot product", serves=FLOATS,
    ),
    *for_each(
        FLOATS, "sort", THEME, "stable", stable_sort, "choice on the host", serves=FLOATS
    ),
    *for_each(
        FLOATS, "falling sort", THEME, "stable", falling_sort, "choice on the host", serves=FLOATS
    ),
    *for_each(
        ("float32",), "top-k", THEME, "the largest, of equals the first", top_k,
        "choice on the host", serves=FLOATS,
    ),
]  # fmt: skip
