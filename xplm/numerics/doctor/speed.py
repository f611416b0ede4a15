"""Speed: 16-bit products that are far slower than float32's.

Each time is the least of some, taken in turn, after a round that does not count; on a CPU it is the time that this
process computed, so that others' work does not count either. A product that falls off the fast path is tens of times
slower; what differs by less than SLOW is the machine's business.
"""

from collections.abc import Callable, Sequence
from math import inf
from time import perf_counter, process_time
from typing import Any

import numpy as np

from xplm.backend import Backend
from xplm.numerics.doctor.numbers import put
from xplm.numerics.doctor.probe import HALVES, Answer, Probe, for_each, gap, good
from xplm.precision import cast
from xplm.typing import Array

THEME = "speed"

SLOW = 3.0
"""Times as long as float32 from which on a product is a gap."""

ROUNDS = 12

SIZES = {"cpu": 128, "gpu": 2048}
"""Rows and columns: a CPU's slow product still takes milliseconds, a GPU's fast one more than its launch."""

BATCH = 4

Clock = Callable[[], float]


def product_speed(
    backend: Backend, dtype: str, *, batched: bool, clock: Clock | None = None
) -> Answer:
    """A square product in `dtype` beside the same in float32, and beside xplm's way: cast, float32 product, cast."""
    is_cpu = backend.device_name == "cpu"
    clock = clock or (process_time if is_cpu else perf_counter)
    n = SIZES["cpu" if is_cpu else "gpu"]
    shape = (BATCH, n // 2, n // 2) if batched else (n, n)
    host = np.random.default_rng(0).standard_normal(shape)
    x, wide = put(backend, host, dtype), put(backend, host, "float32")
    float32 = backend.dtypes["float32"]

    def xplms_way(a: Array) -> Array:
        w = cast(a, float32)
        return cast(w @ w, a.dtype)

    own, reference, routed = seconds(
        backend, [lambda: x @ x, lambda: wide @ wide, lambda: xplms_way(x)], clock
    )
    ratio = own / reference
    found = (
        f"{ratio:,.1f} times float32's {1e3 * reference:.2g} ms; "
        f"xplm's way, {routed / reference:.1f} times"
    )
    values = {"seconds": own, "float32_seconds": reference, "xplm_seconds": routed}
    return gap(found, **values) if ratio > SLOW else good(found, **values)


def seconds(backend: Backend, runs: Sequence[Callable[[], Any]], clock: Clock) -> list[float]:
    """How long each of some runs takes, all of its work done."""
    least = [inf] * len(runs)
    for round in range(ROUNDS + 1):
        for i, run in enumerate(runs):
            backend.synchronize()
            began = clock()
            run()
            backend.synchronize()
            taken = clock() - began
            least[i] = min(least[i], taken) if round > 0 else least[i]
    return least


PROBES: list[Probe] = [
    *for_each(
        HALVES, "product's speed, 2-D", THEME, "float32's or better", product_speed,
        "wide products", batched=False,
    ),
    *for_each(
        HALVES, "product's speed, batched", THEME, "float32's or better", product_speed,
        "wide products", batched=True,
    ),
]  # fmt: skip
