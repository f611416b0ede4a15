"""Number formats that a backend lacks, emulated on it: the same kernels, in any precision, on any machine.

`emulate(backend, policy)` wraps a backend's namespace in another. Its arrays hold one of the backend's own arrays and,
where their numbers are those of a narrower format, that format:

    a dtype that the backend has    passes through: what the backend does with it happens
    a format that it lacks          float32 storage; every operation computes in float32 and rounds its result once
                                    (`xplm.formats.round_to`); `astype` to the format rounds

Sums, means and the like run in float32 too, and round at the end, where NumPy's own bfloat16 rounds every partial sum.
Of two different formats the result is float32. A
Python number beside an array counts as float32, not as a number of the array's format.

Matrix products, those of gradients and of optimizers included, and the one that an embedding's gradient is written as:

    matmul      operands are rounded to this format, and multiplied in it where the backend does that in float32 sums
    accumulate  with K terms to a sum, acc <- round(acc + round(sum of the next 16 terms)), block after block

Gradients are straight-through by construction: a backward kernel differentiates the exact formula, at rounded values,
and rounds what it computes as the forward kernel does. No rounding is differentiated.

Numerics. For +, -, *, / and sqrt on a format of p <= 11 bits, float32's 24 >= 2 p + 2 bits make rounding twice the same
as once, above float32's subnormals: Figueroa, "When is double rounding innocuous?", ACM SIGNUM Newsletter 30 (1995).
float8 here is what ml_dtypes
defines: in float8_e4m3fn, numbers above 464 become NaN and do not saturate. A backend's replaced kernels and rules know
nothing of formats, and are left out.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np

from xplm.backend import Backend
from xplm.emulation.array import Emulated
from xplm.emulation.namespace import EmulatedNamespace, Products, Rounding, emulated_namespace
from xplm.errors import BackendError
from xplm.formats import FORMATS, find_format, round_to
from xplm.precision import EXACT, HOST_DTYPES, Policy


def emulate(backend: Backend, policy: Policy, rounding: Rounding = round_to) -> Backend:
    """A backend that has every dtype of a policy.

    Args:
        backend: what computes.
        policy: dtypes and products.
        rounding: what takes a number into a format, such as `stochastic`. Any but `round_to` replaces the backend's
            own narrow dtypes too.

    Returns:
        The backend as it is where it has all the policy asks for. Otherwise one whose arrays are wrapped, whose
        dtypes include the missing formats as `Format` values, and whose name ends in what is emulated:
        "numpy+float8_e4m3fn", "torch+matmul=tf32".

    Raises:
        BackendError: the backend lacks float32, or float64 where the policy names it: nothing emulates these.
    """
    own = EXACT if rounding is not round_to else tuple(backend.dtypes)
    missing = [name for name in dict.fromkeys(policy.dtypes) if name not in own]
    names = {"matmul": policy.matmul, "accumulate": policy.accumulate}
    rounded = {part: find_format(name) for part, name in names.items() if name not in EXACT}
    if not missing and not rounded:
        return backend
    needed = {"float32", *policy.dtypes}
    for name in EXACT:
        if name in needed and name not in backend.dtypes:
            raise BackendError(
                f'policy "{policy}" needs {name}, which backend "{backend.name}" lacks and nothing '
                f"emulates; it has {', '.join(sorted(backend.dtypes))}"
            )

    formats_of_products = rounded.get("matmul"), rounded.get("accumulate")
    products = Products(*formats_of_products, backend.blas.multiply_narrow)
    if rounding is round_to:
        xp = emulated_namespace(backend.xp, products)
    else:
        xp = EmulatedNamespace(backend.xp, products, rounding)
    formats = {name: find_format(name) for name in missing}
    parts = [*missing, *[f"{part}={format.name}" for part, format in rounded.items()]]
    return replace(
        backend,
        name="+".join([backend.name, *parts]),
        xp=xp,
        dtypes={**backend.dtypes, **formats},
        from_host=partial(_from_host, backend, xp),
        to_host=partial(_to_host, backend),
        assign=partial(_assign, backend, xp),
        kernels={},
        invariant={},
        rules={},
    )


def _from_host(backend: Backend, xp: EmulatedNamespace, host: np.ndarray) -> Emulated:
    """A NumPy array on the device; one of a format that the backend lacks, in that format."""
    format = FORMATS.get(host.dtype.name)
    if format is None or format.name in backend.dtypes:
        return xp.wrap(backend.from_host(host))
    return xp.wrap(backend.from_host(host.astype(np.float32)), format, is_rounded=True)


def _to_host(backend: Backend, array: Emulated) -> np.ndarray:
    """A copy on the host, in the format's NumPy dtype, or float32 where it has none."""
    host = backend.to_host(array.data)
    if array.format is None:
        return host
    return host.astype(
        getattr(ml_dtypes, array.format.name, HOST_DTYPES.get(array.format.name, np.float32))
    )


def _assign(
    backend: Backend, xp: EmulatedNamespace, array: Emulated, key: Any, value: Emulated
) -> Emulated:
    """array[key] = value, rounded to the array's format."""
    data = xp.astype(value, array.dtype, copy=False).data
    return xp.wrap(backend.assign(array.data, xp.inside(key), data), array.format, is_rounded=True)
