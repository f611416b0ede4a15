"""NumPy's adapter."""

from collections.abc import Callable
from typing import Any

import array_api_compat.numpy as xp
import numpy as np

from xplm.backend import Backend, host_memory
from xplm.errors import BackendError
from xplm.precision import HOST_DTYPES

KERNELS: dict[str, Callable[..., Any]] = {}
"""Kernels that replace the portable ones of the same name."""


def make_backend(device: str) -> Backend:
    """NumPy on "cpu".

    Raises:
        BackendError: another device is asked for.
    """
    if device != "cpu":
        raise BackendError(f'backend "numpy" computes on the CPU; got --device {device}; use cpu')
    return Backend(
        name="numpy",
        device_name="cpu",
        device="cpu",
        xp=xp,
        dtypes=HOST_DTYPES,
        from_host=np.asarray,
        to_host=np.asarray,
        synchronize=lambda: None,
        memory=host_memory,
        kernels=KERNELS,
    )
