"""NumPy's adapter, with fused kernels where numba can be imported."""

import logging
from typing import Any

import numpy as np

from xplm.backend import Backend, host_memory
from xplm.errors import BackendError
from xplm.precision import HOST_DTYPES
from xplm_numpy.memory import keep_freed_memory, reserve
from xplm_numpy.threads import spin_briefly

logger = logging.getLogger(__name__)


def make_backend(device: str) -> Backend:
    """NumPy on "cpu".

    Raises:
        BackendError: another device is asked for.
    """
    if device != "cpu":
        raise BackendError(f'backend "numpy" computes on the CPU; got --device {device}; use cpu')
    keep_freed_memory()
    spin_briefly()
    return Backend(
        name="numpy",
        device_name="cpu",
        device="cpu",
        xp=np,
        dtypes=HOST_DTYPES,
        from_host=np.asarray,
        to_host=np.asarray,
        synchronize=lambda: None,
        memory=host_memory,
        reserve=reserve,
        **load_fused(),
    )


def load_fused() -> dict[str, Any]:
    """The fused kernels, as a Backend's fields; none, and one line that says so, where numba cannot be used."""
    try:
        from numba.core import config
    except ImportError as error:
        logger.warning("numba cannot be imported (%s): the portable kernels run, slower", error)
        return {}
    if vars(config)["DISABLE_JIT"]:
        logger.warning("numba is told to compile nothing: the portable kernels run, slower")
        return {}

    from xplm_numpy.announce import before_compiling, compilations
    from xplm_numpy.kernels import FUSED

    told = {"before_compiling": before_compiling, "compilations": compilations}
    return {"kernels": FUSED} | told
