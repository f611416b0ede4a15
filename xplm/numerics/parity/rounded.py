"""The same numbers for both sides: rounded to the test's formats once, and then as they are in any that is wider."""

from collections.abc import Mapping

import numpy as np

from xplm.errors import RequestError
from xplm.formats import Format
from xplm.precision import HOST_DTYPES, PolicyDtypes, cast
from xplm.runtime import Runtime
from xplm.typing import Array, Params


def formats_of(rt: Runtime) -> PolicyDtypes:
    """The formats of a runtime's policy as NumPy's dtypes, those among them that its backend has to emulate."""
    return rt.policy.resolve(HOST_DTYPES, np.__name__)


def require_known(rt: Runtime) -> None:
    """Check that a runtime's policy is one that bounds are known for.

    Raises:
        RequestError: it names a format without a dtype of NumPy's, or rounds inside of matrix products.
    """
    names = dict.fromkeys((*rt.policy.dtypes, rt.policy.matmul, rt.policy.accumulate))
    inside = {rt.policy.matmul, rt.policy.accumulate} - {"float32", "float64"}
    unknown = [name for name in names if name not in HOST_DTYPES]
    if unknown or inside:
        raise RequestError(
            f"parity knows the bounds of {', '.join(HOST_DTYPES)}, with matrix products in float32 or wider; "
            f'got policy "{rt.policy}"'
        )


def to_host(rt: Runtime, array: Array) -> np.ndarray:
    """A copy of an array as NumPy's, in its own format, emulated or not: a cache is written to later on."""
    host = np.array(rt.backend.to_host(array))
    dtype = getattr(array, "dtype", None)
    return host.astype(HOST_DTYPES[dtype.name]) if isinstance(dtype, Format) else host


def to_device(rt: Runtime, host: np.ndarray) -> Array:
    """A copy of a host array on a runtime's device, in the same format."""
    own = rt.backend.dtypes.get(host.dtype.name)
    if isinstance(own, Format):
        return cast(rt.backend.from_host(host.astype(np.float32)), own)
    return rt.backend.from_host(host.copy())


class Numbers:
    """Host numbers that the test's policy can hold."""

    def __init__(self, test: Runtime) -> None:
        """Of this runtime's policy."""
        self._formats = formats_of(test)

    def rounded(self, arrays: Mapping[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
        """Float64 arrays whose numbers the format of a policy's part holds."""
        dtype = getattr(self._formats, part)
        return {name: array.astype(dtype).astype(np.float64) for name, array in arrays.items()}

    def put(self, rt: Runtime, arrays: Mapping[str, np.ndarray], part: str) -> Params:
        """Rounded arrays on a runtime's device, in its own format of that part."""
        dtype = getattr(formats_of(rt), part)
        return {name: to_device(rt, array.astype(dtype)) for name, array in arrays.items()}
