"""array-api-strict's adapter.

Its "device1" stands in for a GPU's memory: an array there that reaches NumPy other than by `to_host` raises.
"""

from typing import Any

import numpy as np

from xplm.backend import Backend, host_memory
from xplm.errors import BackendError
from xplm.threads import limit_blas

DEVICES = {"cpu": "CPU_DEVICE", "cuda": "device1", "cuda:0": "device1", "cuda:1": "device2"}


def make_backend(device: str) -> Backend:
    """array-api-strict on its CPU, or on "device1" where a GPU is asked for.

    Raises:
        BackendError: array-api-strict is not installed, or the device is not one of the three.
    """
    try:
        import array_api_strict as xp

        np.asarray(xp.zeros(1))  # which 2.4 refuses on Python 3.11
    except (ModuleNotFoundError, TypeError) as error:
        raise BackendError('"strict" needs pip install "array-api-strict>=2.4.1"') from error
    if device not in DEVICES:
        raise BackendError(f'backend "strict" has {", ".join(DEVICES)}; got --device {device}')

    host, where = xp.Device("CPU_DEVICE"), xp.Device(DEVICES[device])

    def to_host(array: Any) -> np.ndarray:
        return np.asarray(array.to_device(host))

    return Backend(
        name="strict",
        device_name=device,
        device=where,
        xp=xp,
        dtypes={"float32": xp.float32, "float64": xp.float64},
        from_host=lambda array: xp.asarray(array, device=where),
        to_host=to_host,
        synchronize=lambda: None,
        memory=host_memory,
        limit_threads=limit_blas,
    )
