"""JAX's adapter.

JAX's arrays are never written to: `assign` makes a new one. What JAX decides by switches of its own is left to them,
because they hold for the whole program; this file reads them and says what follows:

    jax_enable_x64                 Off, JAX has no float64 and its integers have 32 bits. Then float64 is no dtype of
                                   this backend, and integers that 32 bits do not hold are refused.
    jax_default_matmul_precision   Not set, a GPU rounds what float32 products multiply to TF32, which a policy has to
                                   say ("fp32,matmul=tf32"). Such a GPU is refused.

Every operation is compiled the first time that it meets a shape.

JAX has threads of its own from its first use on, as many as the process has cores, and takes no number of them from a
program. They do not exist in a forked child, where it would wait for them for ever: a child is refused.
"""

from typing import Any

import numpy as np

from xplm.backend import Backend, DeviceMemory, host_memory, is_memory_error
from xplm.errors import BackendError
from xplm.threads import refuse_forks
from xplm.typing import Array

MAX_DIGITS = 9  # of a GPU's number that are read; no machine has so many

_refuse_fork = refuse_forks("jax")


def make_backend(device: str) -> Backend:
    """JAX on "cpu", "cuda" or "cuda:N".

    Raises:
        BackendError: JAX is not installed, it sees no such GPU, or float32 products would not be float32's there.
    """
    try:
        import jax
        import jax.numpy as xp
    except ModuleNotFoundError as error:
        raise BackendError(
            'backend "jax" needs JAX, which is missing; run: pip install jax (CPU) or '
            'pip install "jax[cuda13]" (GPU)'
        ) from error

    _refuse_fork()
    kind, _, number = device.partition(":")
    index = int(number.lstrip("0")[:MAX_DIGITS] or 0)
    try:
        devices = jax.devices(kind)
    except RuntimeError:  # this JAX was built without the platform, or the platform has no driver
        devices = []
    if index >= len(devices):
        raise BackendError(
            f"--device {device:.40} is not there: JAX {jax.__version__} sees {len(devices)} of {kind}; "
            'run nvidia-smi to see the driver\'s, and: pip install "jax[cuda13]"'
        )
    where, is_gpu = devices[index], kind == "cuda"
    switches: Any = jax.config
    if is_gpu and switches.jax_default_matmul_precision not in ("float32", "highest"):
        raise BackendError(
            "on a GPU JAX rounds float32 products to TF32 unless it is told not to; "
            "set JAX_DEFAULT_MATMUL_PRECISION=highest in the environment"
        )
    has_64_bits = bool(switches.jax_enable_x64)

    def from_host(array: np.ndarray) -> Array:
        if not has_64_bits and array.dtype in (np.float64, np.int64):
            array = _narrow(array)
        return xp.array(array, device=where)

    def synchronize() -> None:
        for array in jax.live_arrays(where.platform):
            array.block_until_ready()

    def memory() -> DeviceMemory:
        if not is_gpu:
            return host_memory()
        stats = where.memory_stats()
        used, total = stats["bytes_in_use"], stats["bytes_limit"]
        return DeviceMemory(used, stats["peak_bytes_in_use"], total, total - used)

    halves = {"float32": xp.float32, "float16": xp.float16, "bfloat16": xp.bfloat16}
    return Backend(
        name="jax",
        device_name=f"cuda:{index}" if is_gpu else "cpu",
        device=where,
        xp=xp,
        dtypes={name: xp.dtype(dtype) for name, dtype in halves.items()}
        | ({"float64": xp.dtype(xp.float64)} if has_64_bits else {}),
        from_host=from_host,
        to_host=np.asarray,
        synchronize=synchronize,
        memory=memory,
        is_out_of_memory=is_out_of_memory,
        assign=assign,
        computing=_refuse_fork,
    )


def assign(array: Any, key: Any, value: Array) -> Array:
    """A copy of JAX's array with array[key] = value, for its arrays cannot be written to."""
    return array.at[key].set(value)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed: JAX has one class for all that goes wrong, and a code in front of its message."""
    return str(error).startswith("RESOURCE_EXHAUSTED") or is_memory_error(error)


def _narrow(array: np.ndarray) -> np.ndarray:
    """64-bit integers in 32 bits."""
    if array.dtype == np.float64:
        raise BackendError(
            "JAX has float64 only where it is switched on; set JAX_ENABLE_X64=1 in the environment"
        )
    narrow = array.astype(np.int32)
    if not np.array_equal(narrow, array):
        raise BackendError(
            f"JAX's integers have 32 bits unless JAX_ENABLE_X64=1 is set; got {np.abs(array).max()}"
        )
    return narrow
