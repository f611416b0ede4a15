"""Casts: rounding to nearest with ties to even, overflow, NaN; and from float64, rounding once.

What is right comes from `xplm.formats.round_to` on the host, whose roundings are arithmetic in float32, and no casts.
"""

from collections.abc import Callable

import numpy as np

from xplm.backend import Backend
from xplm.formats import FORMATS, round_to
from xplm.numerics.doctor.numbers import bits, first_wrong, get, put, smallest_normal
from xplm.numerics.doctor.probe import HALVES, Answer, Probe, absent, for_each, gap, good
from xplm.precision import HOST_DTYPES

THEME = "casts"

DRAWS = 4096


def rounding(backend: Backend, dtype: str) -> Answer:
    """From float32: numbers at random, and those half way between two neighbours."""
    format = FORMATS[dtype]
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(DRAWS) * 2.0 ** rng.integers(-12, 12, DRAWS)
    ties = 1.0 + (np.arange(64) + 0.5) * format.eps
    host = np.concatenate([normal, ties, -ties]).astype(np.float32)
    wrong = first_wrong(_cast(backend, host, dtype), round_to(host, format))
    return (
        gap(f"not to nearest, ties to even: {wrong}") if wrong else good("to nearest, ties to even")
    )


def outside(backend: Backend, dtype: str) -> Answer:
    """From float32: what is too large becomes infinity, infinities and NaN stay, -0 keeps its sign."""
    largest = FORMATS[dtype].max
    too_large = min(largest * (1.0 + FORMATS[dtype].eps), float(np.finfo(np.float32).max))
    host = np.array(
        [largest, too_large, -too_large, np.inf, -np.inf, np.nan, 0.0, -0.0], np.float32
    )
    found = _cast(backend, host, dtype)
    wrong = first_wrong(found, [largest, np.inf, -np.inf, np.inf, -np.inf, np.nan, 0.0, 0.0])
    if wrong:
        return gap(wrong)
    return good("right") if np.signbit(found[-1]) else gap("-0 loses its sign")


def widening(backend: Backend, dtype: str) -> Answer:
    """To float32: every normal number, every infinity and NaN is what it was."""
    patterns = np.arange(2**16, dtype=np.uint16).view(HOST_DTYPES[dtype])
    with np.errstate(invalid="ignore"):
        host = patterns.astype(np.float64)
    is_subnormal = (host != 0) & (np.abs(host) < smallest_normal(dtype))
    wide = backend.xp.astype(backend.from_host(patterns[~is_subnormal]), backend.dtypes["float32"])
    wrong = first_wrong(get(backend, wide), host[~is_subnormal])
    return gap(wrong) if wrong else good("exact")


def once(backend: Backend, dtype: str) -> Answer:
    """From float64: a number just above the middle of two neighbours goes up; in float32 it would be the middle."""
    if "float64" not in backend.dtypes:
        return absent("no float64 to cast from")
    host = np.array([1.0 + FORMATS[dtype].eps / 2 + 2.0**-40])
    found = backend.xp.astype(backend.from_host(host), backend.dtypes[dtype])
    wrong = first_wrong(get(backend, found), round_to(host, FORMATS[dtype]))
    return gap("rounded twice, through float32") if wrong else good("rounded once")


def round_trip(backend: Backend, dtype: str) -> Answer:
    """To the device and back, bits stay as they are."""
    host = np.arange(2**16, dtype=np.uint16).view(HOST_DTYPES[dtype])
    back = backend.to_host(backend.from_host(host))
    if back.dtype != host.dtype:
        return gap(f"comes back as {back.dtype}")
    n_changed = int(np.sum((bits(back) != bits(host)) & ~np.isnan(host.astype(np.float32))))
    return gap(f"{n_changed} of 65536 bit patterns change") if n_changed else good("bit for bit")


def _cast(backend: Backend, host: np.ndarray, dtype: str) -> np.ndarray:
    """float32 numbers after the library's cast, as float64."""
    return get(backend, backend.xp.astype(put(backend, host, "float32"), backend.dtypes[dtype]))


ROWS: tuple[tuple[str, str, Callable[..., Answer], str | None], ...] = (
    ("from float32", "to nearest, ties to even", rounding, None),
    ("overflow, NaN, -0", "inf, NaN and -0", outside, None),
    ("to float32", "exact", widening, None),
    ("from float64", "rounded once", once, "rounded from float32"),
    ("to the device and back", "bit for bit", round_trip, None),
)

PROBES: list[Probe] = [
    probe
    for name, asks, run, workaround in ROWS
    for probe in for_each(HALVES, name, THEME, asks, run, workaround)
]
